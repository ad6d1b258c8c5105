// Keys and values are read from storage where they are needed, at addresses that are uniform over
// the workgroup. Names as in from_tile.wgsl.

#let key_quad = load_own(k[k_at$t + $cu])
#let value_quad = load_own(v[v_at$t + $cu])
#if PAGED
#let lone_value = v_first + paged_value(sequence, u32(j + t))
#else
#let lone_value = v_first + u32(j + t) * v_stride
#end
#let lone_quad = load_quad(v[v_at + $cu])
