//! Scores near the end of f32, and soft-caps of every size.

use super::{check, f16_only, harmonic, judge, kernels, problem_by};
use crate::common::{Problem, Storage, gpu};
use prflash::kernels::Kernel;
use prflash::verify::Tolerance;
use prflash::{Attention, Bias, DType, Positions, Shape, Tables};

/// Scores of `key(j)·scale` in every row, exactly.
pub(super) fn scores_of(problem: &mut Problem, key: impl Fn(usize) -> f32) {
    let (dim, len) = (problem.shape.head_dim(), problem.shape.kv_len());
    for query in problem.q.chunks_mut(dim) {
        query.fill(0.0);
        query[0] = 1.0;
    }
    for (index, row) in problem.k.chunks_mut(dim).enumerate() {
        row.fill(0.0);
        row[0] = problem.attention.storage().round(key(index % len));
    }
}

/// Scores up to the end of f32 are what they are, and infinite past it. Scores are equal or far
/// apart, so weights are exact and only sums of values round.
#[test]
fn scores_near_the_end_of_f32() {
    let Some(context) = gpu("scores_near_the_end_of_f32") else { return };
    let shape = Shape::new(2, 1, 130, 16).unwrap();
    const LARGEST: f32 = f32::MAX;
    type Score = fn(usize) -> f32;
    // In units of the largest number of f32.
    let cases: [(&str, Score); 11] = [
        ("low", |_| -0.75),
        ("lower", |_| -0.9),
        ("lowest", |j| if j == 77 { -0.97 } else { -0.99 }),
        ("falling", |j| -0.6 - 0.003 * j as f32),
        ("rising", |j| -0.99 + 0.003 * j as f32),
        ("high", |j| if j % 7 == 3 { 0.95 } else { 0.75 }),
        ("both ends", |j| if j % 7 == 3 { 0.95 } else { -0.95 }),
        // For the first of each there is room in powers of four.
        ("just past the low end", |j| if j % 7 == 3 { -0.9 } else { -1.2 }),
        ("past the low end", |j| if j % 7 == 3 { -0.9 } else { -1.75 }),
        ("just past the high end", |j| if j > 90 { 1.2 } else { 0.9 }),
        ("past the high end", |j| if j > 90 { 1.75 } else { 0.9 }),
    ];
    for kernel in kernels(&context) {
        // Their queries have the scale in them, which f16 doesn't hold.
        if matches!(kernel, Kernel::Tiled(tile) if tile.uses_f16_products()) {
            continue;
        }
        for (name, score) in cases {
            for (attention, splits) in [
                (Attention::causal(), None),
                (Attention::causal().with_correction(1.0).unwrap(), Some(3)),
                (Attention::causal().with_positions(Positions::from(Bias::alibi())), None),
            ] {
                // Scales and keys whose product is the score: both are powers of two times little.
                let scale = 2f32.powi(120);
                let attention = attention.with_scale(scale).unwrap();
                let problem = problem_by(kernel, (&attention, splits), shape, |problem| {
                    scores_of(problem, |j| score(j) * (LARGEST / scale));
                });
                let schedule = harmonic(&attention, &shape);
                for tables in [Tables::new(), Tables::from(&schedule)] {
                    let got = problem.run(&context, Storage::HeadsFirst, &tables);
                    let exact = problem.exact(&tables);
                    let of_lse = Tolerance { absolute: 0.0, relative: 1e-6 };
                    let story = format!("{kernel}, {name}, {attention:?}");
                    let tolerances = [Tolerance::absolute(2e-6), of_lse];
                    let kinds = judge(&got.output, &got.lse.unwrap(), &exact, tolerances, &story);
                    let past = (name.ends_with("past the low end"), name.ends_with("past the high end"));
                    assert_eq!((kinds.empty > 0, kinds.nan > 0), past, "{story}: {kinds:?}");
                }
            }
        }
    }
}

/// Inner products near the end of f32, not only scores: the queries and keys themselves are large.
#[test]
fn products_near_the_end_of_f32() {
    let Some(context) = gpu("products_near_the_end_of_f32") else { return };
    let shape = Shape::new(2, 1, 130, 16).unwrap();
    for kernel in kernels(&context).into_iter().filter(|&kernel| !f16_only(kernel)) {
        for storage in [DType::F32, DType::Bf16] {
            for (name, sign) in [("low", -1.0), ("high", 1.0)] {
                let attention = Attention::causal().with_scale(1.0).unwrap().with_storage(storage);
                let problem = problem_by(kernel, (&attention, None), shape, |problem| {
                    scores_of(problem, |j| sign * (1.2e19 + 1e17 * (j % 40) as f32));
                    problem.q.iter_mut().for_each(|q| *q *= storage.round(2e19));
                });
                let got = problem.run(&context, Storage::HeadsFirst, &Tables::new());
                let exact = problem.exact(&Tables::new());
                let tolerances = [Tolerance::absolute(2e-6), Tolerance { absolute: 0.0, relative: 1e-6 }];
                let story = format!("{kernel}, {storage}, {name}");
                let kinds = judge(&got.output, &got.lse.unwrap(), &exact, tolerances, &story);
                assert_eq!(kinds.finite, 260, "{story}: {kinds:?}");
            }
        }
    }
}

/// `cap·tanh(s/cap)` for caps and scores of every size: a row that sees one key has its score as
/// LSE.
#[test]
fn soft_caps_of_every_size() {
    let Some(context) = gpu("soft_caps_of_every_size") else { return };
    let shape = Shape::new(1, 1, 160, 16).unwrap();
    // From 2⁻²⁰ to 2²⁰ with both signs and others between, and 0.
    let score = |j: usize| match j {
        0 => 0.0,
        _ => (1.0 - 2.0 * (j % 2) as f32) * (1.0 + (j % 8) as f32 / 8.0) * 2f32.powi(j as i32 / 4 - 20),
    };
    for kernel in kernels(&context) {
        for scale in [1.0, 1e-12, 1e15, 1e30] {
            // Products in f16 hold no such queries.
            if scale != 1.0 && matches!(kernel, Kernel::Tiled(tile) if tile.uses_f16_products()) {
                continue;
            }
            for cap in [1e-30, 1e-20, 1e-6, 0.01, 0.3, 1.0, 50.0, 1e3, 1e4, 3e7, 1e12, 1e20, 1e30] {
                let attention = Attention::causal().with_window(1).unwrap().with_soft_cap(cap).unwrap();
                let attention = attention.with_scale(scale).unwrap();
                let problem =
                    problem_by(kernel, (&attention, None), shape, |problem| scores_of(problem, score));
                let exact = problem.exact(&Tables::new());
                let got = problem.run(&context, Storage::HeadsFirst, &Tables::new());
                // Of the score 13 roundings (a product, tanh's, the cap and units), of log₂ 1 = 0
                // as many units absolutely. Products in f16 round queries and keys.
                let unit = DType::F32.unit_roundoff();
                let relative = if f16_only(kernel) && scale == 1.0 {
                    2.0 * DType::F16.unit_roundoff()
                } else {
                    13.0 * unit
                };
                let of_lse = Tolerance { absolute: 13.0 * unit, relative };
                let story = format!("{kernel}, cap {cap:e}, scale {scale:e}");
                let tolerances = [Tolerance::absolute(2e-6), of_lse];
                let kinds = judge(&got.output, &got.lse.unwrap(), &exact, tolerances, &story);
                assert_eq!(kinds.finite, 160, "{story}");
            }
        }
    }
}

/// Whole rows under soft-caps, within the derived tolerances, which no longer grow with the cap.
#[test]
fn soft_caps_are_within_the_tolerance_of_scores() {
    let Some(context) = gpu("soft_caps_are_within_the_tolerance_of_scores") else { return };
    let shape = Shape::new(2, 1, 150, 16).unwrap();
    for kernel in kernels(&context) {
        for cap in [1e-30, 1e-3, 2.0, 30.0, 1e4, 1e8, 1e30] {
            for attention in
                [Attention::causal(), Attention::full().with_positions(Positions::from(Bias::harmonic()))]
            {
                let attention = attention.with_soft_cap(cap).unwrap();
                let problem = problem_by(kernel, (&attention, None), shape, |_| ());
                let kinds = check(&context, &problem, &Tables::new(), &format!("cap {cap:e}"));
                assert_eq!(kinds.finite, 300);
            }
        }
    }
}
