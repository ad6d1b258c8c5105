// As from_storage.wgsl, in blocks of quads (tensors.wgsl). Names as in from_tile.wgsl.

#let key_quad = load_own(k[k_at$t + $(c/BLOCK_QUADS)u][$(c%BLOCK_QUADS)])
#let value_quad = load_own(v[v_at$t + $(c/BLOCK_QUADS)u][$(c%BLOCK_QUADS)])
#let lone_value = v_first + u32(j + t) * v_stride
#let lone_quad = load_quad(v[v_at + $(c/BLOCK_QUADS)u][$(c%BLOCK_QUADS)])
