//! Which kernel is fastest on this device: measured, where a rule isn't enough.

use std::fmt;

#[cfg(not(target_arch = "wasm32"))]
use super::trial::Trial;
use crate::attention::kernels::rule::Task;
use crate::attention::kernels::shapes::{Decode, Kernel};
use crate::error::{Result, ensure};
use crate::layout::DType;
use crate::runtime::capabilities::Capabilities;
#[cfg(not(target_arch = "wasm32"))]
use crate::{
    Attention, Context, KvCache, Shape,
    attention::kernels::shapes::{Matrix, Tile},
};

/// The kernels that [`Attention::tune`] found fastest on a device, by class of shape: a plain value to store (feature `serde`) and to give to
/// [`Attention::with_tuning`].
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct TuningProfile {
    /// [`Capabilities::adapter`] of the device. On others the profile has no effect.
    pub adapter: String,
    /// [`Capabilities::driver`], likewise.
    pub driver: String,
    /// One for each class, in the order in which shapes of it were first given.
    pub choices: Vec<Tuned>,
}

/// What was chosen for a class of shapes.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Tuned {
    /// For which shapes.
    pub class: ShapeClass,
    /// The kernel.
    pub kernel: Kernel,
    /// Its time over that of the rule's choice, the geometric mean over the shapes of the class; 1 for the rule's choice itself.
    pub ratio: f64,
    /// Candidates whose results were wrong on some shape of the class, and so weren't considered.
    pub refused: Vec<Kernel>,
}

/// Shapes that the same kernel serves.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ShapeClass {
    /// The head dimension.
    pub head_dim: usize,
    /// The value dimension.
    pub value_dim: usize,
    /// The type of queries, keys and values.
    pub storage: DType,
    /// Where queries are few ([`Decode`]): rows that share a key, up to the next power of two. 0 for all other lengths.
    pub rows: usize,
    /// The kind of positions: what of them is rendered into a kernel. Empty without any.
    #[cfg_attr(feature = "serde", serde(default))]
    pub positions: String,
    /// The kind of staircase cache: widths of keys and values, group, and whether keys are stored before rotation. Empty for tensors.
    #[cfg_attr(feature = "serde", serde(default))]
    pub cache: String,
}

impl ShapeClass {
    fn of(task: &Task) -> Self {
        let few = (1..=Decode::QUERIES).contains(&task.q_len);
        let name = |text: String| text.trim_start_matches('_').to_owned();
        Self {
            head_dim: task.head_dim,
            value_dim: task.value_dim,
            storage: task.storage,
            rows: if few { (task.q_len * task.heads_per_kv).next_power_of_two() } else { 0 },
            positions: name(task.positions.to_string()),
            cache: task.cache.map_or(String::new(), |cache| name(cache.to_string())),
        }
    }
}

impl fmt::Display for ShapeClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, D = {}, D_v = {}", self.storage, self.head_dim, self.value_dim)?;
        match self.rows {
            0 => f.write_str(", many queries")?,
            rows => write!(f, ", {rows} rows to a key")?,
        }
        for kind in [&self.positions, &self.cache].into_iter().filter(|kind| !kind.is_empty()) {
            write!(f, ", {kind}")?;
        }
        Ok(())
    }
}

impl TuningProfile {
    /// The kernel for a task, if the profile has one for it on this device.
    pub(super) fn choice(&self, capabilities: &Capabilities, task: &Task) -> Option<Kernel> {
        let here = self.adapter == capabilities.adapter && self.driver == capabilities.driver;
        if !here {
            return None;
        }
        let class = ShapeClass::of(task);
        let tuned = self.choices.iter().find(|tuned| tuned.class == class)?;
        // A profile that was edited may name any kernel.
        tuned.kernel.check(capabilities, task).ok().map(|()| tuned.kernel)
    }
}

impl TuningProfile {
    /// Both profiles' choices; where both have one for a class, the other's.
    ///
    /// # Errors
    /// Invalid argument (`other`) if it is of another device or driver.
    pub fn with(mut self, other: Self) -> Result<Self> {
        ensure!(
            self.adapter == other.adapter && self.driver == other.driver,
            "other",
            "expected a profile of {} ({}), got one of {} ({})",
            self.adapter,
            self.driver,
            other.adapter,
            other.driver
        );
        self.choices.retain(|tuned| other.choices.iter().all(|new| new.class != tuned.class));
        self.choices.extend(other.choices);
        Ok(self)
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl Attention {
    /// Measures which kernels are fastest for these shapes on this device, with this attention's storage and positions; takes seconds to minutes.
    ///
    /// Shapes are put into classes ([`ShapeClass`]). A candidate of a class is first compared with the portable kernel ([`Kernel::Naive`]) on every shape of the class and on short
    /// and ragged ones beside, within what its arithmetic may deviate; the right ones are then timed in turn, `rounds` times, by GPU timestamps or, on CPU adapters, where these lie, by the wall. The
    /// fastest in the geometric mean over the shapes is chosen, and the rule's own choice unless another gains 3%.
    ///
    /// [`TuningProfile::with`] puts the profiles of several attentions together.
    ///
    /// # Errors
    /// Invalid argument: no `shapes`, no `rounds`, or an attention with a `kernel` of its own; those of [`plan`](Attention::plan) for the rule's choice.
    pub fn tune(&self, context: &Context, shapes: &[Shape], rounds: usize) -> Result<TuningProfile> {
        self.tune_source(context, None, shapes, rounds)
    }

    /// The same for calls over staircase caches like `cache`: of its device, staircase and stored keys, but of their own, filled with random tokens up to the `kv_len` of each shape. The
    /// portable kernel is then the smallest tile that reads a cache.
    ///
    /// # Errors
    /// As [`tune`](Attention::tune); invalid argument (`shapes`) for another number of key/value heads or other dimensions than the cache's.
    pub fn tune_cached(&self, cache: &KvCache, shapes: &[Shape], rounds: usize) -> Result<TuningProfile> {
        let want = cache.shape();
        let sizes = |shape: &Shape| [shape.kv_heads(), shape.head_dim(), shape.value_dim()];
        for shape in shapes {
            ensure!(
                sizes(shape) == sizes(want),
                "shapes",
                "expected (kv_heads, head_dim, value_dim) = {:?} as in the cache, got {:?}",
                sizes(want),
                sizes(shape)
            );
        }
        self.tune_source(cache.context(), Some(cache), shapes, rounds)
    }

    fn tune_source(
        &self,
        context: &Context,
        cache: Option<&KvCache>,
        shapes: &[Shape],
        rounds: usize,
    ) -> Result<TuningProfile> {
        ensure!(!shapes.is_empty(), "shapes", "expected at least one, got none");
        ensure!(rounds >= 1, "rounds", "expected at least 1, got 0");
        crate::limits::at_most("rounds", rounds, crate::limits::MAX_ROUNDS)?;
        ensure!(self.kernel().is_none(), "kernel", "expected none, got {:?}", self.kernel());
        let capabilities = context.capabilities();
        let mut profile = TuningProfile {
            adapter: capabilities.adapter.clone(),
            driver: capabilities.driver.clone(),
            choices: Vec::new(),
        };
        let base = Self { tuning: None, lse: false, ..self.clone() };
        let class_of = |shape: &Shape| ShapeClass::of(&base.task(shape, cache.map(KvCache::variant)));
        for shape in shapes {
            let class = class_of(shape);
            if profile.choices.iter().all(|tuned| tuned.class != class) {
                let of_class = |s: &&Shape| class_of(s) == class;
                let shapes: Vec<Shape> = shapes.iter().filter(of_class).copied().collect();
                profile.choices.push(tune_class(&base, context, cache, class, &shapes, rounds)?);
            }
        }
        Ok(profile)
    }
}

#[cfg(not(target_arch = "wasm32"))]
fn tune_class(
    attention: &Attention,
    context: &Context,
    cache: Option<&KvCache>,
    class: ShapeClass,
    shapes: &[Shape],
    rounds: usize,
) -> Result<Tuned> {
    let problems = |shapes: &[Shape]| -> Result<Vec<Trial>> {
        shapes.iter().map(|shape| Trial::new(context, attention, shape, cache)).collect()
    };
    let (problems, ragged) = (problems(shapes)?, problems(&ragged(&shapes[0])?)?);
    let rule = problems[0].rule(attention)?;
    let mut refused = Vec::new();
    let mut right = Vec::new();
    for kernel in candidates(&class, rule, attention.allows_half_products()) {
        let mut trials = problems.iter().chain(&ragged);
        let agree: Result<bool> =
            trials.try_fold(true, |agree, trial| Ok(agree && trial.agrees(attention, kernel)?));
        match agree {
            Ok(true) => right.push(kernel),
            Ok(false) => refused.push(kernel),
            Err(error) if error.is_unsupported() => {}
            Err(error) => return Err(error),
        }
    }
    ensure!(!right.is_empty(), "kernel", "no kernel computes what the portable one does: {refused:?}");
    // ln of the times, summed over the shapes.
    let mut scores = vec![0.0; right.len()];
    for problem in &problems {
        let times = problem.times(attention, &right, rounds)?;
        for (score, time) in scores.iter_mut().zip(times) {
            *score += time.as_secs_f64().max(1e-9).ln() / problems.len() as f64;
        }
    }
    let of_rule = right.iter().position(|&kernel| kernel == rule).map(|at| scores[at]);
    let best = (0..right.len()).min_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0);
    let ratio = of_rule.map_or(1.0, |score| (scores[best] - score).exp());
    // What is within the noise stays.
    let (kernel, ratio) = if of_rule.is_some() && ratio > 0.97 { (rule, 1.0) } else { (right[best], ratio) };
    Ok(Tuned { class, kernel, ratio, refused })
}

/// The rule's choice first, then others of its kind.
#[cfg(not(target_arch = "wasm32"))]
fn candidates(class: &ShapeClass, rule: Kernel, half_products: bool) -> Vec<Kernel> {
    let mut candidates = vec![rule];
    if class.rows > 0 {
        for row_sets in [1, 2, 4, 8] {
            for quads in [true, false] {
                candidates.extend(Decode::new(row_sets, quads).map(Kernel::Decode));
            }
        }
    } else {
        let staged = [(4, 4), (2, 4), (1, 4), (2, 8), (1, 8), (2, 2)].map(|(rows, keys)| (rows, keys, true));
        let direct = [(1, 1), (1, 2), (1, 4), (2, 2)].map(|(rows, keys)| (rows, keys, false));
        for (rows, keys, staged) in staged.into_iter().chain(direct) {
            candidates.extend(Tile::new(rows, keys, staged).map(Kernel::Tiled));
        }
        for (parts, staged) in [(2, false), (4, false), (2, true), (4, true)] {
            candidates
                .extend(Tile::new(1, 4, staged).and_then(|tile| tile.with_parts(parts)).map(Kernel::Tiled));
        }
        if half_products {
            for keys in [2, 4, 8] {
                candidates.extend(
                    Tile::new(1, keys, false).map(|tile| Kernel::Tiled(tile.with_half_products(true))),
                );
            }
        }
        candidates.push(Kernel::Naive);
        // Where they can't run they are passed over.
        for (edge, padded) in [(16, true), (16, false), (8, true), (8, false)] {
            candidates.extend(Matrix::new(edge, padded, false).map(Kernel::Matrix));
        }
    }
    // The rule's choice is among them again.
    let mut index = 0;
    candidates.retain(|&kernel| {
        index += 1;
        index == 1 || kernel != rule
    });
    candidates
}

/// Short lengths, and some that no tile divides, with the heads of a shape.
#[cfg(not(target_arch = "wasm32"))]
fn ragged(shape: &Shape) -> Result<Vec<Shape>> {
    let few = (1..=Decode::QUERIES).contains(&shape.q_len());
    let lens: [(usize, usize); 4] = match few {
        true => [1, 63, 130, 700].map(|kv_len| (shape.q_len(), kv_len)),
        false => [(9, 9), (65, 65), (130, 77), (77, 190)],
    };
    lens.into_iter()
        .map(|(q_len, kv_len)| shape.with_batch(1)?.with_q_len(q_len)?.with_kv_len(kv_len))
        .collect()
}
