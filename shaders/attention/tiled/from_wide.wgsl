// As from_storage.wgsl, in wide loads of several quads (tensors.wgsl). Names as in from_tile.wgsl.

#let key_quad = load_own(k[k_at$t + $(c/WIDE_QUADS)u][$(c%WIDE_QUADS)])
#let value_quad = load_own(v[v_at$t + $(c/WIDE_QUADS)u][$(c%WIDE_QUADS)])
#let lone_value = v_first + u32(j + t) * v_stride
#let lone_quad = load_quad(v[v_at + $(c/WIDE_QUADS)u][$(c%WIDE_QUADS)])
