//! Kernels measured on a device.

use super::choosing;
use super::inputs::attention::Attention;
use super::plan_options::PlanOptions;
use super::trial::Trial;
use super::tuning::{ShapeClass, Tuned, TuningProfile};
use super::wanted::Wanted;
use crate::attention::kernels::shapes::{Decode, Kernel, Matrix, Tile};
use crate::cache::KvCache;
use crate::error::{Result, ensure};
use crate::limits::{MAX_ROUNDS, at_most};
use crate::runtime::context::Context;
use crate::shape::Shape;

/// Measures kernels for one attention on one device.
pub(super) struct Tuner<'a> {
    context: &'a Context,
    attention: Attention,
    options: PlanOptions,
    rounds: usize,
}

impl<'a> Tuner<'a> {
    pub(super) fn new(
        context: &'a Context,
        attention: &Attention,
        options: &PlanOptions,
        rounds: usize,
    ) -> Result<Self> {
        ensure!(rounds >= 1, "rounds", "expected at least 1, got 0");
        at_most("rounds", rounds, MAX_ROUNDS)?;
        ensure!(options.kernel().is_none(), "kernel", "expected none, got {:?}", options.kernel());
        let (attention, options) = (attention.clone().with_lse(false), options.clone().untuned());
        Ok(Self { context, attention, options, rounds })
    }

    /// For these shapes, over tensors or over caches like this one.
    pub(super) fn tune(&self, cache: Option<&KvCache>, shapes: &[Shape]) -> Result<TuningProfile> {
        ensure!(!shapes.is_empty(), "shapes", "expected at least one, got none");
        let capabilities = self.context.capabilities();
        let mut profile = TuningProfile {
            adapter: capabilities.adapter.clone(),
            driver: capabilities.driver.clone(),
            choices: Vec::new(),
        };
        let class_of = |shape: &Shape| {
            let wanted = Wanted::new(self.context, &self.attention, &self.options, shape);
            ShapeClass::of(&Wanted { cache, ..wanted }.task())
        };
        for shape in shapes {
            let class = class_of(shape);
            if profile.choices.iter().all(|tuned| tuned.class != class) {
                let of_class = |s: &&Shape| class_of(s) == class;
                let shapes: Vec<Shape> = shapes.iter().filter(of_class).copied().collect();
                profile.choices.push(self.tune_class(cache, class, &shapes)?);
            }
        }
        Ok(profile)
    }

    fn tune_class(&self, cache: Option<&KvCache>, class: ShapeClass, shapes: &[Shape]) -> Result<Tuned> {
        let problems = |shapes: &[Shape]| -> Result<Vec<Trial>> {
            let trial = |shape| Trial::new(self.context, &self.attention, &self.options, shape, cache);
            shapes.iter().map(trial).collect()
        };
        let (problems, ragged) = (problems(shapes)?, problems(&ragged(&shapes[0])?)?);
        let rule = choosing::plan(&problems[0].wanted()?)?.kernel();
        let mut refused = Vec::new();
        let mut right = Vec::new();
        for kernel in candidates(&class, rule, self.options.allows_half_products()) {
            let mut trials = problems.iter().chain(&ragged);
            let agree: Result<bool> =
                trials.try_fold(true, |agree, trial| Ok(agree && trial.agrees(kernel)?));
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
            for (score, time) in scores.iter_mut().zip(problem.times(&right, self.rounds)?) {
                *score += time.as_secs_f64().max(1e-9).ln() / problems.len() as f64;
            }
        }
        let of_rule = right.iter().position(|&kernel| kernel == rule).map(|at| scores[at]);
        let best = (0..right.len()).min_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0);
        let ratio = of_rule.map_or(1.0, |score| (scores[best] - score).exp());
        // What is within the noise stays.
        let stays = of_rule.is_some() && ratio > 0.97;
        let (kernel, ratio) = if stays { (rule, 1.0) } else { (right[best], ratio) };
        Ok(Tuned { class, kernel, ratio, refused })
    }
}

/// The rule's choice first, then others of its kind.
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
