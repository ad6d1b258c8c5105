// append: rows of a staircase cache (arXiv 2410.18441) that stay rows: the residual, copies of
// sinks, packs of 16 bits.
//
//   row[(r₀ + i) mod R, c] = f16(x[i, c]),  +0 for channels D ≤ c < D' and for what isn't finite
//
// Shapes      input k, v (batch, H_kv, capacity, D), any strides · rows of D'/2 words in the arena,
//             in rings of R rows
// Moves       rows that follow each other, from the input or from the arena's residual. A unit is a
//             quad: four channels of a row, two words
// Workgroups  one per (head, INVOCATIONS of the line of all moves' units), numbered in one line and
//             folded into x and y
// Counting    moves with FLAG_COUNT count what isn't finite: each number of the input is counted
//             once, wherever else it goes
// Barriers    none: nobody reads what another invocation of the dispatch writes

#import cache/each_unit
#import cache/rows

fn take(own: Move, head: u32, unit: u32) {
    let flags = own.flags;
    let words = row_words(flags);
    let row = unit / (words / 2u);
    let quad = unit % (words / 2u);
    var half = vec4<u32>(0u);
    if quad < channel_quads(flags) {
        half = row_quad(own, head, row, quad);
    }
    var place = own.row + row;
    place = select(place, place - own.ring, place >= own.ring);
    let at = head_base(flags, head) + own.destination + place * words + 2u * quad;
    store(flags, at, half.x | (half.y << 16u));
    store(flags, at + 1u, half.z | (half.w << 16u));
    if (flags & FLAG_COUNT) != 0u {
        report(flags, refused);
    }
}
