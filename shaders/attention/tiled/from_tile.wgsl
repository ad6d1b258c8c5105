// Keys and values pass through workgroup memory: KEYS rows of K and of V, shared by the workgroup;
// read at constant indices.

var<workgroup> k_tile: array<Quad, KEYS * HEAD_QUADS>;
var<workgroup> v_tile: array<Quad, KEYS * VALUE_QUADS>;

fn stage_key(t: u32, c: u32, quad: Quad) {
    k_tile[t * HEAD_QUADS + c] = quad;
}

fn stage_value(t: u32, c: u32, quad: Quad) {
    v_tile[t * VALUE_QUADS + c] = quad;
}

#if ROTATED_CODES
fn staged_key(t: u32, c: u32) -> Quad {
    return k_tile[t * HEAD_QUADS + c];
}

fn staged_value(t: u32, c: u32) -> Quad {
    return v_tile[t * VALUE_QUADS + c];
}
#end

// Quad c of key and value t of a step; where the value of a key begins whose number in the step is
// the variable t, and its quad c.
#let key_quad = k_tile[$tu * HEAD_QUADS + $cu]
#let value_quad = v_tile[$tu * VALUE_QUADS + $cu]
#let lone_value = u32(t) * OWN_VALUE_QUADS
#let lone_quad = vec4<f32>(v_tile[v_at + $cu])
