// What a mask tensor adds to scores, one number for each query head, query and key; 0 without one.
// Its words lie among the tables, each row of keys from a word on: bits, set where the pair is
// seen, or natural logarithms in f16 or f32.

#import attention/params
#import attention/walk

// Where the row of a query begins; `head` is the head's place among all of the call.
fn mask_row(sequence: Sequence, head: u32, row: i32) -> u32 {
    return sequence.mask_base + head * sequence.mask_head_stride + u32(row) * sequence.mask_row_stride;
}

// What is added to the score of a key, in the kernel's unit.
fn masked_by(sequence: Sequence, first: u32, key: i32) -> f32 {
    let at = u32(key);
    if sequence.mask_base == NO_TABLE {
        return 0.0;
    }
    if sequence.mask_bits == 1u {
        let seen = (tables[first + at / 32u] >> (at % 32u)) & 1u;
        return bitcast<f32>(select(NEGATIVE_INFINITY_BITS, 0u, seen == 1u));
    }
    if sequence.mask_bits == 16u {
        let pair = unpack2x16float(tables[first + at / 2u]);
        return params.score_unit * select(pair.x, pair.y, at % 2u == 1u);
    }
    return params.score_unit * bitcast<f32>(tables[first + at]);
}
