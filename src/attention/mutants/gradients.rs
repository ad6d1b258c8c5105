//! Small problems with gradients, and what the oracle says of them.

use super::problem::numbers;
use crate::attention::inputs::attention::Attention;
use crate::attention::inputs::documents::Documents;
use crate::attention::inputs::mask::Mask;
use crate::attention::inputs::tables::Tables;
use crate::layout::DType;
use crate::position::{Bias, Pairing, Positions, Rope};
use crate::random::Seed;
use crate::reference::{self, Gradients};
use crate::sampling::{BlockGrid, Granularity, Profile, Schedule, Systematic};
use crate::shape::Shape;
use crate::verify::{Tolerance, Tolerances, compare};

/// Channels of queries and keys, and of values.
pub(crate) const DIMS: [usize; 2] = [16, 12];

/// Gradients of an engine.
pub(crate) struct Got {
    pub(crate) of_tensors: [Vec<f32>; 3],
    pub(crate) sinks: Option<Vec<f32>>,
    pub(crate) slopes: Option<Vec<f32>>,
}

/// A problem with the oracle's gradients.
pub(crate) struct Problem {
    pub(crate) attention: Attention,
    pub(crate) shape: Shape,
    schedule: Option<Schedule>,
    documents: Option<Documents>,
    mask: Option<Mask>,
    pub(crate) qkv: [Vec<f32>; 3],
    pub(crate) d_output: Vec<f32>,
    pub(crate) d_lse: Vec<f32>,
    exact: Option<Gradients>,
}

impl Problem {
    fn new(attention: Attention, [q_len, kv_len]: [usize; 2]) -> Self {
        let shape = Shape::new(4, 2, q_len, DIMS[0]).unwrap().with_kv_len(kv_len).unwrap();
        let shape = shape.with_value_dim(DIMS[1]).unwrap().with_batch(2).unwrap();
        let (rows, keys) = (2 * 4 * q_len, 2 * 2 * kv_len);
        let of = |seed, count| numbers(seed, count, 1.5, DType::F32);
        Self {
            attention: attention.with_lse(true),
            shape,
            schedule: None,
            documents: None,
            mask: None,
            qkv: [of(1, rows * DIMS[0]), of(2, keys * DIMS[0]), of(3, keys * DIMS[1])],
            d_output: of(4, rows * DIMS[1]),
            d_lse: of(5, rows),
            exact: None,
        }
    }

    pub(crate) fn tables(&self) -> Tables<'_> {
        let tables = self.schedule.as_ref().map_or(Tables::new(), Tables::from);
        let tables = self.mask.as_ref().into_iter().fold(tables, Tables::with_mask);
        self.documents.as_ref().into_iter().fold(tables, Tables::with_documents)
    }

    /// With what the oracle says.
    fn told(mut self) -> Self {
        let [q, k, v] = &self.qkv;
        let (d_output, d_lse) = (&self.d_output, Some(&self.d_lse[..]));
        let exact = reference::attention_backward(
            &self.attention,
            &self.shape,
            [q, k, v],
            d_output,
            d_lse,
            &self.tables(),
        );
        self.exact = Some(exact.unwrap());
        self
    }

    /// Whether these are the oracle's gradients.
    pub(crate) fn is_close(&self, got: &Got) -> bool {
        let (shape, exact) = (&self.shape, self.exact.as_ref().unwrap());
        // Of a row at most the gradients of its output by the largest value, twice, and that of its
        // log-sum-exp; of a slope times the largest distance.
        let size = |values: &[f32]| values.iter().map(|x| f64::from(x.abs())).sum::<f64>();
        let terms = (2.0 * 1.5 * size(&self.d_output) + size(&self.d_lse)) / shape.heads() as f64;
        let farthest = match self.attention.positions() {
            Some(positions) => (0..100).map(|lag| positions.bias_at(lag).abs()).fold(1.0, f64::max),
            None => 1.0,
        };
        let of_heads = [(&got.sinks, &exact.sinks, 1.0), (&got.slopes, &exact.slopes, farthest)];
        let of_heads = of_heads.into_iter().all(|(got, want, times)| {
            let tolerance = Tolerance::absolute(1e-6 * terms * times);
            got.as_ref().is_none_or(|got| compare(got, want, tolerance).unwrap().passed())
        });
        let each = [(&exact.dq, &exact.dq_terms), (&exact.dk, &exact.dk_terms), (&exact.dv, &exact.dv_terms)];
        of_heads
            && got.of_tensors.iter().zip(each).all(|(got, (want, terms))| {
                let tolerances = Tolerances::of_gradient(terms, shape, DType::F32, DType::F32);
                compare(got, want, tolerances).unwrap().passed()
            })
    }
}

/// Every option in some problem, lengths that end inside tiles, blocks and steps.
pub(crate) fn problems() -> Vec<Problem> {
    let (causal, full) = (Attention::causal(), Attention::full());
    let corrected = causal.clone().with_correction(0.5).unwrap();
    let scheduled = |granularity, block_size| {
        let problem = Problem::new(corrected.clone(), [70, 90]);
        let grid = BlockGrid::causal(&problem.shape).with_block_size(block_size).unwrap();
        let profile = Profile::harmonic_with(0.5, 1.0).unwrap();
        let grid = grid.with_granularity(granularity);
        let schedule = Schedule::sample(&grid, &profile, &Systematic, Seed::new(5)).unwrap();
        Problem { schedule: Some(schedule), ..problem }
    };
    let documents = Documents::from_lengths(&[31, 59]).unwrap();
    let problems = vec![
        Problem::new(causal.clone(), [70, 90]),
        Problem::new(causal.clone(), [90, 37]),
        Problem::new(causal.with_window(27).unwrap(), [90, 90]),
        Problem::new(full.clone().with_window(27).unwrap().with_soft_cap(1.5).unwrap(), [70, 90]),
        scheduled(Granularity::Head, 16),
        scheduled(Granularity::KvHead, 128),
        Problem { documents: Some(documents), ..Problem::new(full, [90, 90]) },
    ];
    problems.into_iter().map(Problem::told).collect()
}

/// Rotation of some channels, ALiBi and a factor.
pub(crate) fn positioned() -> Vec<Problem> {
    let rope = Rope::new(DIMS[0], 1e4, Pairing::Half).unwrap().with_rotary_dim(8).unwrap();
    let rope = rope.with_temperature(1.2).unwrap();
    let positions = Positions::from(rope).with_bias(Bias::alibi()).with_harmonic_factor(4.0).unwrap();
    let problem = Problem::new(Attention::causal().with_positions(positions), [70, 90]);
    vec![problem.told()]
}

/// Sinks, and slopes of a bias that isn't linear, with a factor and a soft-cap: what heads have of
/// their own.
pub(crate) fn of_heads() -> Vec<Problem> {
    let positions = Positions::from(Bias::harmonic()).with_harmonic_factor(4.0).unwrap();
    let attention = Attention::causal().with_positions(positions).with_soft_cap(1.5).unwrap();
    let attention = attention.with_sinks(&[-1.0, 0.5, 2.0, 0.0]).unwrap();
    vec![Problem::new(attention, [70, 90]).told()]
}

/// Mask tensors of every broadcast, of numbers and of bits.
pub(crate) fn masked() -> Vec<Problem> {
    let attention = Attention::full().with_masks(true);
    let number = |x: f32| if x > 1.5 { f32::NEG_INFINITY } else { x };
    let of = |dims: [usize; 3]| {
        let values = numbers(9, dims.iter().product(), 2.0, DType::F32);
        Mask::additive(dims, &values.into_iter().map(number).collect::<Vec<_>>()).unwrap()
    };
    let bits: Vec<bool> = numbers(8, 70 * 90, 1.0, DType::F32).into_iter().map(|x| x < 0.7).collect();
    let masks = [of([4, 70, 90]), of([4, 1, 90]), Mask::boolean([1, 70, 90], &bits).unwrap()];
    let problem = |mask| Problem { mask: Some(mask), ..Problem::new(attention.clone(), [70, 90]) }.told();
    masks.into_iter().map(problem).collect()
}
