// As from_tile.wgsl, where lanes share rows: by parts, so that what a part reads has constant
// indices after the first.

var<workgroup> k_tile: array<array<Quad, KEYS * OWN_HEAD_QUADS>, PARTS>;
var<workgroup> v_tile: array<array<Quad, KEYS * OWN_VALUE_QUADS>, PARTS>;

fn stage_key(t: u32, c: u32, quad: Quad) {
    k_tile[c / OWN_HEAD_QUADS][t * OWN_HEAD_QUADS + c % OWN_HEAD_QUADS] = quad;
}

fn stage_value(t: u32, c: u32, quad: Quad) {
    v_tile[c / OWN_VALUE_QUADS][t * OWN_VALUE_QUADS + c % OWN_VALUE_QUADS] = quad;
}

#let key_quad = k_tile[part][$tu * OWN_HEAD_QUADS + $cu]
#let value_quad = v_tile[part][$tu * OWN_VALUE_QUADS + $cu]
#let lone_value = u32(t) * OWN_VALUE_QUADS
#let lone_quad = vec4<f32>(v_tile[part][v_at + $cu])
