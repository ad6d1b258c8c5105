// As from_tile.wgsl, where lanes share rows: by slices, so that what a slice reads has constant
// indices after the first.

var<workgroup> k_tile: array<array<Quad, KEYS * OWN_HEAD_QUADS>, SLICES>;
var<workgroup> v_tile: array<array<Quad, KEYS * OWN_VALUE_QUADS>, SLICES>;

fn stage_key(t: u32, c: u32, quad: Quad) {
    k_tile[c / OWN_HEAD_QUADS][t * OWN_HEAD_QUADS + c % OWN_HEAD_QUADS] = quad;
}

fn stage_value(t: u32, c: u32, quad: Quad) {
    v_tile[c / OWN_VALUE_QUADS][t * OWN_VALUE_QUADS + c % OWN_VALUE_QUADS] = quad;
}

#if ROTATED_CODES
fn staged_key(t: u32, c: u32) -> Quad {
    return k_tile[c / OWN_HEAD_QUADS][t * OWN_HEAD_QUADS + c % OWN_HEAD_QUADS];
}

fn staged_value(t: u32, c: u32) -> Quad {
    return v_tile[c / OWN_VALUE_QUADS][t * OWN_VALUE_QUADS + c % OWN_VALUE_QUADS];
}
#end

#let key_quad = k_tile[slice][$tu * OWN_HEAD_QUADS + $cu]
#let value_quad = v_tile[slice][$tu * OWN_VALUE_QUADS + $cu]
#let lone_value = u32(t) * OWN_VALUE_QUADS
#let lone_quad = vec4<f32>(v_tile[slice][v_at + $cu])
