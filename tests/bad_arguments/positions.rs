//! Rotations, biases and their combination.

use prflash::limits::{MAX_HEADS, MAX_LEN, MAX_ROPE_ENTRIES, MAX_ROTARY_DIM};
use prflash::position::{Distance, LongRope, Pairing, Scaling, Slopes, harmonic_number};
use prflash::{Bias, Positions, Rope};

use super::runner::{Case, tell};
use super::sizes::accepted;

fn scaling(case: &mut Case) -> Scaling {
    let n = &mut case.numbers;
    let (factor, [a, b, c]) = (n.f64(), [(); 3].map(|()| n.f64()));
    let (original_len, given, rounded) = (n.size(), n.bool(), n.bool());
    match n.below(5) {
        0 => Scaling::None,
        1 => Scaling::Linear { factor },
        2 => Scaling::NtkAware { factor },
        3 => Scaling::Llama3 { factor, low_freq_factor: a, high_freq_factor: b, original_len },
        _ if given => Scaling::yarn(factor, original_len),
        _ => {
            let temperature = Some(c);
            Scaling::Yarn { factor, original_len, beta_fast: a, beta_slow: b, temperature, rounded }
        }
    }
}

pub fn rope(case: &mut Case) -> Option<Rope> {
    let n = &mut case.numbers;
    let (head_dim, base, rotary_dim) = (n.dim(), n.f64(), n.dim());
    let (pairing, partial) = (n.pick(&[Pairing::Half, Pairing::Interleaved]), n.bool());
    tell!(case, "Rope::new({head_dim}, {base:?}, {pairing:?})");
    let mut rope = accepted(Rope::new(head_dim, base, pairing))?;
    if partial {
        tell!(case, "with_rotary_dim({rotary_dim})");
        rope = accepted(rope.clone().with_rotary_dim(rotary_dim)).unwrap_or(rope);
    }
    let scaling = scaling(case);
    tell!(case, "with_scaling({scaling:?})");
    rope = accepted(rope.clone().with_scaling(scaling)).unwrap_or(rope);
    let n = &mut case.numbers;
    let (given, right, temperature) = (n.bool(), n.bool(), n.f64());
    let count = if right { rope.frequencies().len() } else { n.below(4) };
    if given && count < 1 << 12 {
        let frequencies: Vec<f64> = (0..count).map(|_| n.f64()).collect();
        tell!(case, "with_frequencies({frequencies:?}), with_temperature({temperature:?})");
        rope = accepted(rope.clone().with_frequencies(&frequencies)).unwrap_or(rope);
        rope = accepted(rope.clone().with_temperature(temperature)).unwrap_or(rope);
        let rotary_dim = case.numbers.dim();
        tell!(case, "with_rotary_dim({rotary_dim})");
        rope = accepted(rope.clone().with_rotary_dim(rotary_dim)).unwrap_or(rope);
    }
    assert!(rope.head_dim() <= MAX_ROTARY_DIM && rope.rotary_dim() <= rope.head_dim());
    assert!(rope.frequencies().iter().all(|frequency| frequency.is_finite()));
    let _ = (rope.is_quad_aligned(), rope.scaling(), rope.pairing(), rope.temperature());
    Some(rope)
}

pub fn ropes(case: &mut Case) {
    let Some(rope) = rope(case) else { return };
    let n = &mut case.numbers;
    let (rows, extra, first) = (n.below(3), n.below(4) / 3, n.i64());
    let ids: Vec<i64> = (0..n.below(3)).map(|_| n.i64()).collect();
    let mut values = n.values(rows * rope.head_dim() + extra);
    tell!(case, "rotate {} values from {first}, and at {ids:?}", values.len());
    assert!(accepted(rope.rotate(&mut values, first)).is_none() || extra == 0);
    assert!(accepted(rope.rotate_at(&mut values, &ids)).is_none() || rows == ids.len());
    let (positions, stride) = (case.numbers.size(), case.numbers.size());
    let pairs = rope.frequencies().len();
    let entries = pairs as u128 * (stride.min(positions) as u128 + positions.div_ceil(stride.max(1)) as u128);
    if (1 << 18..=MAX_ROPE_ENTRIES as u128).contains(&entries) {
        return;
    }
    tell!(case, "table({positions}, {stride})");
    let Some(table) = accepted(rope.table(positions, stride)) else { return };
    assert_eq!((table.low().len() + table.high().len()) as u128, entries);
    assert_eq!((table.stride(), table.pairs()), (stride, pairs));
    for _ in 0..4 {
        let (position, pair) = (case.numbers.i64(), case.numbers.mild(pairs));
        tell!(case, "rotation({position}, {pair})");
        let inside = position.unsigned_abs() < positions as u64 && pair < pairs;
        assert!(table.rotation(position, pair).is_some() || !inside);
        assert!(table.rotation(position, pair).is_none() || pair < pairs);
    }
}

pub fn long_ropes(case: &mut Case) {
    let Some(rope) = rope(case) else { return };
    let n = &mut case.numbers;
    let pairs = if n.bool() { rope.frequencies().len().min(1 << 12) } else { n.below(4) };
    let (original_len, max_len, len) = (n.size(), n.size(), n.size());
    let [short, long] = [(); 2].map(|()| (0..pairs).map(|_| n.f64()).collect::<Vec<_>>());
    tell!(case, "LongRope::new({original_len}, {max_len}, {short:?}, {long:?})");
    let Some(rope) = accepted(LongRope::new(rope, original_len, max_len, &short, &long)) else { return };
    assert_eq!(rope.original_len(), original_len);
    assert!(rope.rope(len).frequencies().iter().all(|frequency| frequency.is_finite()));
}

fn bias(case: &mut Case) -> Option<Bias> {
    let n = &mut case.numbers;
    let (rate, cap, weight, lag) = (n.f64(), n.u64(), n.f64(), n.u64());
    let distance = n.pick(&[
        Distance::Linear,
        Distance::Harmonic,
        Distance::Log { rate },
        Distance::CappedHarmonic { cap },
    ]);
    let given: Vec<f64> = (0..n.below(4)).map(|_| n.f64()).collect();
    let slopes = match n.below(3) {
        0 => Slopes::Alibi,
        1 => Slopes::Harmonic,
        _ => Slopes::Given(given),
    };
    let (heads, len) = (n.size(), n.size());
    tell!(case, "{distance:?} at {lag}; harmonic_number");
    let _ = (distance.at(lag), harmonic_number(lag));
    tell!(case, "{slopes:?} of {heads} heads");
    let values = accepted(slopes.values(heads));
    assert!(values.is_none_or(|values| values.len() == heads && heads <= MAX_HEADS));
    if !(1 << 18..=MAX_LEN).contains(&len) {
        tell!(case, "table({len})");
        assert!(accepted(distance.table(len)).is_none_or(|table| table.len() == len));
    }
    tell!(case, "Bias::new, with_weight({weight:?})");
    let bias = accepted(Bias::new(distance, slopes))?;
    let bias = accepted(bias.clone().with_weight(weight)).unwrap_or(bias);
    accepted(bias.slopes(heads));
    assert!(bias.distance().at(0) == 0.0);
    Some(bias)
}

pub fn biases(case: &mut Case) {
    bias(case);
}

pub fn positions(case: &mut Case) {
    let (rope, bias) = (rope(case), bias(case));
    let n = &mut case.numbers;
    let (length, most, lag, heads) = (n.f64(), n.size(), n.u64(), n.size());
    tell!(case, "Positions: factor {length:?}, at most {most}, lag {lag}, {heads} heads");
    let mut positions = Positions::new();
    positions = rope.into_iter().fold(positions, Positions::with_rope);
    positions = bias.into_iter().fold(positions, Positions::with_bias);
    positions = accepted(positions.clone().with_harmonic_factor(length)).unwrap_or(positions);
    positions = accepted(positions.clone().with_max_positions(most)).unwrap_or(positions);
    assert!((0.0..=1.0).contains(&positions.factor(lag)));
    assert!(positions.bias_at(lag) >= 0.0 && positions.max_positions() <= 1 << 30);
    accepted(positions.slopes(heads));
    if let Some(rope) = positions.rope().cloned() {
        let _ = (Positions::doubly_harmonic(rope.clone()), accepted(Positions::paper(rope, length)));
    }
}
