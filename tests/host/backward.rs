//! The oracle's gradients against finite differences of the oracle itself.

use crate::common::cases::{combinations, mask, rope};
use crate::common::numbers;
use prflash::attention::Mask;
use prflash::position::Pairing;
use prflash::reference::{Gradients, attention, attention_backward};
use prflash::sampling::Granularity;
use prflash::{
    Attention, Bias, BlockGrid, Documents, Positions, Profile, Schedule, Seed, Shape, Systematic, Tables,
};

/// Numbers that are multiples of 2⁻¹², so that those a step away are in f32 exactly.
fn coarse(seed: u64, count: usize) -> Vec<f32> {
    numbers(seed, count).into_iter().map(|x| (x * 4096.0).round() / 4096.0).collect()
}

struct Problem {
    attention: Attention,
    shape: Shape,
    qkv: [Vec<f32>; 3],
    d_output: Vec<f32>,
    d_lse: Option<Vec<f32>>,
}

impl Problem {
    fn new(attention: Attention, shape: Shape, seed: u64) -> Self {
        let rows = shape.batch() * shape.heads() * shape.q_len();
        let keys = shape.batch() * shape.kv_heads() * shape.kv_len();
        let of = |part: u64, count| coarse(10 * seed + part, count);
        let (dim, value_dim) = (shape.head_dim(), shape.value_dim());
        let qkv = [of(1, rows * dim), of(2, keys * dim), of(3, keys * value_dim)];
        let d_lse = seed.is_multiple_of(2).then(|| of(5, rows));
        Self { attention, shape, qkv, d_output: of(4, rows * value_dim), d_lse }
    }

    /// Σ do·o + Σ dL·L, over the rows that have an L.
    fn loss(&self, attention_of: &Attention, qkv: &[Vec<f32>; 3], tables: &Tables<'_>) -> f64 {
        let [q, k, v] = qkv;
        let exact = attention(attention_of, &self.shape, q, k, v, tables).unwrap();
        let dot = |a: &[f32], b: &[f64]| {
            let terms = a.iter().zip(b).filter(|(_, y)| y.is_finite());
            terms.map(|(x, y)| f64::from(*x) * y).sum::<f64>()
        };
        let of_lse = self.d_lse.as_ref().map_or(0.0, |d_lse| dot(d_lse, &exact.lse));
        dot(&self.d_output, &exact.output) + of_lse
    }

    fn gradients(&self, tables: &Tables<'_>) -> Gradients {
        let [q, k, v] = &self.qkv;
        let d_lse = self.d_lse.as_deref();
        attention_backward(&self.attention, &self.shape, [q, k, v], &self.d_output, d_lse, tables).unwrap()
    }

    /// The slope of a loss by central differences at two steps, which leave an error of the fourth
    /// order.
    fn slope(of: impl Fn(f32) -> f64) -> f64 {
        let difference = |step: f32| (of(step) - of(-step)) / (2.0 * f64::from(step));
        let step = 1.0 / 64.0;
        (4.0 * difference(step / 2.0) - difference(step)) / 3.0
    }

    /// Compares some numbers of every gradient.
    fn check(&self, tables: &Tables<'_>, story: &str) {
        let got = self.gradients(tables);
        for (part, gradient) in [&got.dq, &got.dk, &got.dv].into_iter().enumerate() {
            let largest = gradient.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
            assert!(gradient.is_empty() || largest > 1e-3, "{story}: gradient {part} is nearly 0");
            for at in (0..gradient.len()).step_by(gradient.len() / 23 + 1) {
                let want = Self::slope(|step| {
                    let mut qkv = self.qkv.clone();
                    qkv[part][at] += step;
                    self.loss(&self.attention, &qkv, tables)
                });
                let error = (gradient[at] - want).abs();
                assert!(error < 2e-6, "{story}: gradient {part} at {at}: {} for {want}", gradient[at]);
            }
        }
        for (head, &gradient) in got.sinks.iter().enumerate() {
            let sinks = self.attention.sinks().unwrap();
            let want = Self::slope(|step| {
                let mut sinks = sinks.to_vec();
                sinks[head] += step;
                self.loss(&self.attention.clone().with_sinks(&sinks).unwrap(), &self.qkv, tables)
            });
            assert!((gradient - want).abs() < 2e-6, "{story}: sink {head}: {gradient} for {want}");
        }
        self.check_sums(&got, story);
    }

    /// Without sinks, a row's `ds` add up to the gradient of its log-sum-exp.
    fn check_sums(&self, got: &Gradients, story: &str) {
        if self.attention.sinks().is_some() {
            return;
        }
        for (row, &sum) in got.row_sums.iter().enumerate().filter(|&(row, _)| got.dq_terms[row].terms > 0) {
            let want = self.d_lse.as_ref().map_or(0.0, |d_lse| f64::from(d_lse[row]));
            assert!((sum - want).abs() < 1e-12, "{story}: row {row} has {sum} for {want}");
        }
    }
}

fn shape(q_len: usize, kv_len: usize) -> Shape {
    let shape = Shape::new(4, 2, q_len, 16).unwrap().with_kv_len(kv_len).unwrap();
    shape.with_value_dim(8).unwrap().with_batch(2).unwrap()
}

#[test]
fn gradients_are_slopes_of_the_loss() {
    let causal = Attention::causal();
    let full = Attention::full();
    let cases = [
        ("causal", causal.clone(), shape(19, 19)),
        ("full", full.clone(), shape(7, 13)),
        ("more queries than keys", causal.clone(), shape(11, 6)),
        ("window", causal.clone().with_window(5).unwrap(), shape(17, 23)),
        ("full window", full.clone().with_window(4).unwrap(), shape(12, 12)),
        ("scale", causal.clone().with_scale(0.7).unwrap(), shape(9, 9)),
        ("soft-cap", full.with_soft_cap(0.8).unwrap(), shape(9, 9)),
        ("sinks", causal.with_sinks(&[-1.0, 0.5, 2.0, 0.0]).unwrap(), shape(9, 9)),
    ];
    for (seed, (story, attention, shape)) in (0..).zip(cases) {
        Problem::new(attention, shape, seed).check(&Tables::new(), story);
    }
}

#[test]
fn positions_turn_gradients_back() {
    for (seed, (story, positions)) in (0..).zip(combinations(16)) {
        let attention = Attention::causal().with_positions(positions);
        Problem::new(attention, shape(9, 12), seed).check(&Tables::new(), story);
    }
    let positions = Positions::from(rope(16, 8, Pairing::Half)).with_bias(Bias::harmonic());
    let positions = positions.with_harmonic_factor(6.0).unwrap();
    let all = Attention::causal().with_positions(positions).with_soft_cap(1.2).unwrap();
    let all = all.with_sinks(&[-1.0, 0.5, 2.0, 0.0]).unwrap();
    Problem::new(all, shape(9, 12), 3).check(&Tables::new(), "everything");
}

#[test]
fn tables_leave_gradients_to_the_pairs_that_are_kept() {
    let shape = shape(40, 40);
    let attention = Attention::causal().with_correction(0.5).unwrap();
    for (seed, granularity) in (0..).zip([Granularity::Head, Granularity::KvHead, Granularity::Shared]) {
        let grid = BlockGrid::causal(&shape).with_block_size(8).unwrap().with_granularity(granularity);
        let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(seed)).unwrap();
        assert!(schedule.density() < 1.0);
        let problem = Problem::new(attention.clone(), shape, seed);
        problem.check(&Tables::from(&schedule), &format!("schedule, {granularity:?}"));
    }
    let documents = Documents::from_lengths(&[13, 0, 27]).unwrap();
    Problem::new(Attention::full(), shape, 2).check(&Tables::from(&documents), "documents");
    let mask: Mask = mask(1, [4, 40, 40]);
    let masked = Attention::causal().with_masks(true);
    Problem::new(masked, shape, 2).check(&Tables::from(&mask), "a mask tensor");
}

/// The slopes of a bias, by differences between biases with given ones.
#[test]
fn slopes_have_gradients() {
    use prflash::position::{Distance, Slopes};
    let shape = shape(13, 13);
    let with = |slopes: &[f64]| {
        let bias = Bias::new(Distance::Harmonic, Slopes::Given(slopes.to_vec())).unwrap();
        Attention::causal().with_positions(Positions::from(bias).with_harmonic_factor(5.0).unwrap())
    };
    let slopes = [0.25, 0.5, 1.0, 2.0];
    let problem = Problem::new(with(&slopes), shape, 4);
    let got = problem.gradients(&Tables::new());
    for head in 0..4 {
        let want = Problem::slope(|step| {
            let mut slopes = slopes;
            slopes[head] += f64::from(step);
            problem.loss(&with(&slopes), &problem.qkv, &Tables::new())
        });
        assert!((got.slopes[head] - want).abs() < 2e-6, "{head}: {} for {want}", got.slopes[head]);
    }
}

#[test]
fn refusals_name_the_argument() {
    let shape = Shape::new(1, 1, 2, 4).unwrap();
    let eight = [0.5; 8];
    let call = |q: &[f32], d_output: &[f32], d_lse: Option<&[f32]>| {
        let qkv = [q, &eight[..], &eight[..]];
        let got = attention_backward(&Attention::causal(), &shape, qkv, d_output, d_lse, &Tables::new());
        got.err().and_then(|error| error.argument())
    };
    assert_eq!(call(&eight, &eight, Some(&eight[..2])), None);
    assert_eq!(call(&eight[..7], &eight, None), Some("q"));
    assert_eq!(call(&eight, &eight[..7], None), Some("d_output"));
    assert_eq!(call(&eight, &eight, Some(&eight[..1])), Some("d_lse"));
}
