// Gradients of rows before their rotation, from those of rotated rows: the transposed matrix turns
// back, and has the temperature once more. A slice has every SLICES-th quad, so that the two quads
// that turn together are of one slice.

#if ROPE
fn own_partner(i: u32, slice: u32) -> u32 {
    return (partner(i * SLICES + slice) - slice) / SLICES;
}
#end
