// What a row comes to, from the state of its online softmax when it has seen all: the largest score
// m, as a natural logarithm, and l = Σ e^(s − m).
//
//   NaN     where it saw a score that is NaN or +∞: then l is NaN, since nothing takes one out of a
//           sum again. Output and log-sum-exp are NaN
//   empty   where it saw no key, or none with a score above −∞: l is 0. Output 0, log-sum-exp −∞
//   else    output o / l, log-sum-exp m + ln l
//
// So a key with score −∞ weighs e^−∞ = 0, as one that isn't seen, and parts of a row's keys have
// states whose merge is the whole row's. A score past what f32 holds is infinite; kernels whose own
// unit has room for it find so here.
//
// Once a row, so the loops over keys needn't look; and by bits, since compilers may take every
// number for finite.

const ROW_FINITE: u32 = 0u;
const ROW_EMPTY: u32 = 1u;
const ROW_NAN: u32 = 2u;

fn row_kind(maximum: f32, sum: f32) -> u32 {
    let size = bitcast<u32>(sum) & 0x7fffffffu;
    let top = bitcast<u32>(maximum);
    if size >= INFINITY_BITS || top == INFINITY_BITS {
        return ROW_NAN;
    }
    return select(ROW_FINITE, ROW_EMPTY, size == 0u || top == NEGATIVE_INFINITY_BITS);
}

// What the numerator is multiplied by: the reciprocal of the denominator, 0 or NaN.
fn row_normalizer(kind: u32, denominator: f32) -> f32 {
    // Not a literal NaN, which browsers' compilers refuse.
    let bits = select(bitcast<u32>(1.0 / denominator), NAN_BITS, kind == ROW_NAN);
    return bitcast<f32>(select(bits, 0u, kind == ROW_EMPTY));
}

// The bits of the log-sum-exp.
fn row_lse(kind: u32, value: f32) -> u32 {
    return select(select(bitcast<u32>(value), NAN_BITS, kind == ROW_NAN), NEGATIVE_INFINITY_BITS, kind == ROW_EMPTY);
}
