// step_down: packs of a staircase cache (arXiv 2410.18441) at fewer bits, from codes to codes.
//
//   code' = (2·code·(2^b' − 1) + 2^b − 1) / (2·(2^b − 1))
//
// in integers, for every width that the segment passes, as src/cache/quantize.rs says; of rotated
// codes (src/cache/rotated)
//
//   code' = code >> (b − b')
//
// Shapes      packs of S·D'·b/32 words of codes; what is behind them (extremes and summaries, or
//             scales, means and fine tokens) stays as it is
// Moves       a segment from one rung's ring to another's. A unit is 32 codes: b words before, b'
//             words after
// Workgroups  one per (head, INVOCATIONS of the line of all moves' units), numbered in one line and
//             folded into x and y
// Barriers    none: no move of a dispatch reads the rung that it writes

#import cache/each_unit

fn take(own: Move, head: u32, unit: u32) {
    let flags = own.flags;
    let widths = own.widths;
    let wide = widths & 15u;
    let narrow = last_width(widths);
    let base = head_base(flags, head);
    let source = base + own.source;
    let destination = base + own.destination;
    // Units of the pack.
    let units = cache.segment * row_words(flags) / 16u;
    let behind = select(cache.key_behind, cache.value_behind, is_values(flags));
    for (var at = unit; at < behind; at += units) {
        store(flags, destination + units * narrow + at, load(flags, source + units * wide + at));
    }
    let from_at = source + unit * wide;
    var to_at = destination + unit * narrow;
    let mask = vec4<u32>(levels(wide));
    var packed = 0u;
    var filled = 0u;
    for (var eight = 0u; eight < 4u; eight++) {
        // Eight codes: two words of 8 bits, else at most one word, which may lie in two.
        var low: vec4<u32>;
        var high: vec4<u32>;
        if wide == 8u {
            low = vec4<u32>(load(flags, from_at + 2u * eight)) >> (8u * LANES);
            high = vec4<u32>(load(flags, from_at + 2u * eight + 1u)) >> (8u * LANES);
        } else {
            let bit = 8u * wide * eight;
            var codes = load(flags, from_at + bit / 32u) >> (bit % 32u);
            if bit % 32u + 8u * wide > 32u {
                codes |= load(flags, from_at + bit / 32u + 1u) << (32u - bit % 32u);
            }
            low = vec4<u32>(codes) >> (wide * LANES);
            high = vec4<u32>(codes) >> (wide * (LANES + vec4<u32>(4u)));
        }
        if (flags & FLAG_SHIFT) != 0u {
            low = (low & mask) >> vec4<u32>(wide - narrow);
            high = (high & mask) >> vec4<u32>(wide - narrow);
        } else {
            low = stepped(low & mask, widths);
            high = stepped(high & mask, widths);
        }
        // A narrower width has at most 4 bits, so that eight codes fit one word again.
        let codes = joined(low, narrow) | (joined(high, narrow) << (4u * narrow));
        packed |= codes << filled;
        filled += 8u * narrow;
        if filled >= 32u {
            filled -= 32u;
            store(flags, to_at, packed);
            to_at++;
            packed = select(0u, codes >> (8u * narrow - filled), filled > 0u);
        }
    }
}
