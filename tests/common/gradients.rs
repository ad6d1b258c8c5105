//! Problems whose output has gradients, the same for every engine.

use prflash::verify::{Tolerance, Tolerances, compare};
use prflash::{Attention, Layout, Result, Shape, Tables, reference};

use super::cases::Case;
use super::{Problem, Storage, numbers};

/// The gradients of a problem, as contiguous numbers; empty where it has no sinks, or no slopes.
#[derive(Clone, Debug, Default)]
pub struct Got {
    pub dq: Vec<f32>,
    pub dk: Vec<f32>,
    pub dv: Vec<f32>,
    pub sinks: Vec<f32>,
    pub slopes: Vec<f32>,
}

impl Got {
    pub fn each(&self) -> [(&'static str, &Vec<f32>); 5] {
        let Self { dq, dk, dv, sinks, slopes } = self;
        [("dq", dq), ("dk", dk), ("dv", dv), ("sinks", sinks), ("slopes", slopes)]
    }

    pub fn each_mut(&mut self) -> [&mut Vec<f32>; 5] {
        let Self { dq, dk, dv, sinks, slopes } = self;
        [dq, dk, dv, sinks, slopes]
    }

    pub fn assert_same_bits(&self, other: &Self, story: &str) {
        for ((name, one), (_, other)) in self.each().into_iter().zip(other.each()) {
            assert_eq!(bits(one), bits(other), "{name}, {story}");
        }
    }
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// A problem whose output has gradients.
pub struct Backward {
    pub problem: Problem,
    pub d_output: Vec<f32>,
    pub d_lse: Option<Vec<f32>>,
}

impl Backward {
    pub fn new(problem: Problem, seed: u64) -> Self {
        let problem = Problem { attention: problem.attention.with_lse(true), ..problem };
        let (shape, output) = (&problem.shape, problem.attention.output());
        let rows = shape.batch() * shape.heads() * shape.q_len();
        let d_output = numbers(seed + 100, rows * shape.value_dim());
        let d_output = d_output.into_iter().map(|x| output.round(x)).collect();
        let d_lse = seed.is_multiple_of(3).then(|| numbers(seed + 200, rows));
        Self { problem, d_output, d_lse }
    }

    /// Inputs of unit variance, dense and f32.
    pub fn of_unit_variance(len: usize, dim: usize, attention: Attention) -> Self {
        let shape = Shape::new(2, 1, len, dim).unwrap();
        let mut backward = Self::new(Problem::random(attention, shape, 1), 1);
        let Problem { q, k, v, .. } = &mut backward.problem;
        // Uniform on ±√3: the variance is 1.
        for (values, size) in [(q, 2.0), (k, 2.0), (v, 1.0), (&mut backward.d_output, 1.0)] {
            let spread = 3f32.sqrt() / size;
            values.iter_mut().for_each(|x| *x *= spread);
        }
        backward
    }

    /// What the attention has beside tensors: sinks, and slopes.
    pub fn has(&self) -> [bool; 2] {
        let attention = &self.problem.attention;
        let biased = attention.positions().is_some_and(|positions| positions.bias().is_some());
        [attention.sinks().is_some(), biased]
    }

    /// How the output lies, and its gradient.
    pub fn output_layout(&self, storage: Storage) -> Result<Layout> {
        let shape = &self.problem.shape;
        let (batch, heads, len, dim) = (shape.batch(), shape.heads(), shape.q_len(), shape.value_dim());
        match storage {
            Storage::HeadsFirst => Layout::heads_first(batch, heads, len, dim),
            _ => Layout::tokens_first(batch, len, heads, dim),
        }
    }

    pub fn exact(&self, tables: &Tables<'_>) -> reference::Gradients {
        let Problem { attention, shape, q, k, v, .. } = &self.problem;
        let d_lse = self.d_lse.as_deref();
        reference::attention_backward(attention, shape, [q, k, v], &self.d_output, d_lse, tables).unwrap()
    }

    /// Compares every gradient with the oracle's, and gives the largest error of each over its
    /// largest number.
    pub fn compare(&self, got: &Got, tables: &Tables<'_>, story: &str) -> f64 {
        let exact = self.exact(tables);
        let Problem { attention, shape, .. } = &self.problem;
        let mut worst: f64 = 0.0;
        for (name, got, want, terms) in [
            ("dq", &got.dq, &exact.dq, &exact.dq_terms),
            ("dk", &got.dk, &exact.dk, &exact.dk_terms),
            ("dv", &got.dv, &exact.dv, &exact.dv_terms),
        ] {
            let tolerances = Tolerances::of_gradient(terms, shape, attention.output(), attention.storage());
            let report = compare(got, want, tolerances).unwrap();
            assert!(report.passed(), "{name} of {story}: {report}\n{attention:?}, {shape:?}");
            let largest = want.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
            worst = worst.max(if largest > 0.0 { report.max_abs_error / largest } else { 0.0 });
        }
        self.compare_of_heads(got, &exact, story);
        worst
    }

    /// Gradients of sinks and slopes, whose terms are at most so large: of a row the gradients of
    /// the output by the largest value, twice, and that of the log-sum-exp; of a slope times the
    /// largest distance.
    fn compare_of_heads(&self, got: &Got, exact: &reference::Gradients, story: &str) {
        let Problem { attention, v, .. } = &self.problem;
        let size = |values: &[f32]| values.iter().fold(0.0, |most: f64, x| most.max(f64::from(*x).abs()));
        let gradients: f64 = self.d_output.iter().map(|x| f64::from(*x).abs()).sum();
        let of_lse: f64 = self.d_lse.iter().flatten().map(|x| f64::from(*x).abs()).sum();
        // One head has a share of the terms.
        let terms = (2.0 * size(v) * gradients + of_lse) / self.problem.shape.heads() as f64;
        let rounding = attention.output().unit_roundoff().max(2e-6);
        let [sinks, slopes] = self.has();
        assert_eq!([sinks, slopes], [!got.sinks.is_empty(), !got.slopes.is_empty()], "{story}");
        if sinks {
            let report = compare(&got.sinks, &exact.sinks, Tolerance::absolute(rounding * terms)).unwrap();
            assert!(report.passed(), "sinks of {story}: {report}");
        }
        if slopes {
            let positions = attention.positions().unwrap();
            let farthest = (0..4096).map(|lag| positions.bias_at(lag).abs()).fold(0.0, f64::max);
            let tolerance = Tolerance::absolute(rounding * terms * farthest.max(1.0));
            let report = compare(&got.slopes, &exact.slopes, tolerance).unwrap();
            assert!(report.passed(), "slopes of {story}: {report}");
        }
    }
}

/// Gives every case's problem with gradients, each by the seed of its number.
pub fn for_each(
    cases: impl Iterator<Item = Case>,
    mut check: impl FnMut(&Backward, Storage, &Tables<'_>, &str),
) {
    let mut count = 0;
    for case in cases {
        let Case { story, problem, storage, schedules, documents, ids, masks } = case;
        let small = Problem::random(Attention::causal(), Shape::new(1, 1, 1, 4).unwrap(), 0);
        let tables = Case { schedules, documents, ids, masks, ..Case::new("", small, storage) };
        check(&Backward::new(problem, count), storage, &tables.tables(), &story);
        count += 1;
    }
    assert!(count > 0, "no cases");
}

/// Sinks that are next to nothing, some, and nearly all of a row.
pub fn beside_sinks() -> Case {
    let shape = Shape::new(4, 2, 150, 32).unwrap().with_kv_len(100).unwrap();
    let attention = Attention::causal().with_sinks(&[-40.0, 0.5, 3.0, 60.0]).unwrap();
    Case::new("sinks", Problem::random(attention, shape, 3), Storage::TokensFirst)
}

/// Every combination of positions, over these lengths.
pub fn positions(lens: &[(usize, usize)]) -> impl Iterator<Item = Case> {
    let dim = 32;
    lens.iter().flat_map(move |&(q_len, kv_len)| {
        super::cases::combinations(dim).into_iter().map(move |(name, positions)| {
            let shape = Shape::new(4, 2, q_len, dim).unwrap().with_kv_len(kv_len).unwrap();
            let attention = Attention::causal().with_positions(positions);
            Case::new(name, Problem::random(attention, shape, 3), Storage::HeadsFirst)
        })
    })
}

/// Positions beside everything else that shapes a score, and with tables and ids.
pub fn positions_with_more(storage: Storage) -> impl Iterator<Item = Case> {
    use super::cases;
    let of = move |(name, attention, shape)| Case::new(name, Problem::random(attention, shape, 5), storage);
    let all = cases::positions_with_everything_else().into_iter().map(of);
    all.chain(cases::positions_with_tables()).chain(cases::position_ids())
}

/// What the promised error of unit variance is tried on: tokens, channels and the attention.
pub fn promised() -> [(usize, usize, Attention); 4] {
    [
        (1024, 64, Attention::causal()),
        (1024, 128, Attention::causal()),
        (1000, 64, Attention::full()),
        (256, 64, Attention::causal().with_window(100).unwrap()),
    ]
}
