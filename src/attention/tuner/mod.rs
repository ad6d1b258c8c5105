//! Kernels measured on a device, class by class: `candidates` is which there are, `choice` how the
//! fastest is found.

mod candidates;
mod choice;
#[cfg(test)]
mod tests;

use super::choosing;
use super::inputs::attention::Attention;
use super::plan_options::PlanOptions;
use super::trial::Trial;
use super::tuning::{ShapeClass, Tuned, TuningProfile};
use super::tuning_options::TuningOptions;
use super::wanted::Wanted;
use crate::attention::kernels::shapes::{Decode, Kernel};
use crate::cache::KvCache;
use crate::error::{Result, ensure};
use crate::runtime::context::Context;
use crate::search::Tpe;
use crate::shape::Shape;
use candidates::Candidates;
use choice::{Bench, Choice, Verdict};

/// What all draws of the search are functions of, so that equal times give equal proposals.
const SEED: u64 = 1;

/// Measures kernels for one attention on one device.
pub(super) struct Tuner<'a> {
    context: &'a Context,
    attention: Attention,
    options: PlanOptions,
    tuning: TuningOptions,
}

impl<'a> Tuner<'a> {
    pub(super) fn new(
        context: &'a Context,
        attention: &Attention,
        options: &PlanOptions,
        tuning: TuningOptions,
    ) -> Result<Self> {
        ensure!(options.kernel().is_none(), "kernel", "expected none, got {:?}", options.kernel());
        ensure!(!options.pages(), "pages", "expected none: kernels are measured on rows");
        let (attention, options) = (attention.clone().with_lse(false), options.clone().untuned());
        Ok(Self { context, attention, options, tuning })
    }

    /// For these shapes, over tensors or over caches like this one.
    pub(super) async fn tune(&self, cache: Option<&KvCache>, shapes: &[Shape]) -> Result<TuningProfile> {
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
                profile.choices.push(self.tune_class(cache, class, &shapes).await?);
            }
        }
        Ok(profile)
    }

    async fn tune_class(
        &self,
        cache: Option<&KvCache>,
        class: ShapeClass,
        shapes: &[Shape],
    ) -> Result<Tuned> {
        let problems = async |shapes: &[Shape]| -> Result<Vec<Trial>> {
            let mut trials = Vec::new();
            for shape in shapes {
                trials.push(Trial::new(self.context, &self.attention, &self.options, shape, cache).await?);
            }
            Ok(trials)
        };
        let (problems, ragged) = (problems(shapes).await?, problems(&ragged(&shapes[0])?).await?);
        let rule = choosing::plan(&problems[0].wanted()?)?.kernel();
        let capabilities = self.context.capabilities();
        let task = problems[0].wanted()?.task();
        let candidates = Candidates::new(capabilities, &task, rule)?;
        let mut device = Device { problems, ragged, rounds: self.tuning.rounds() };
        let choice = choice::choose(&mut device, &candidates, self.tuning.trials(), Tpe::new(), SEED).await?;
        let Choice { kernel, ratio, refused, tried } = choice;
        Ok(Tuned { class, kernel, ratio, refused, tried, candidates: candidates.all().len() })
    }
}

/// Problems of a class on a device.
struct Device {
    /// The problems that are timed, too.
    problems: Vec<Trial>,
    ragged: Vec<Trial>,
    rounds: usize,
}

impl Bench for Device {
    async fn verdict(&mut self, kernel: Kernel) -> Result<Verdict> {
        for trial in self.problems.iter().chain(&self.ragged) {
            match trial.agrees(kernel).await {
                Ok(true) => {}
                Ok(false) => return Ok(Verdict::Wrong),
                Err(error) if error.is_unsupported() => return Ok(Verdict::Unsupported),
                // A compiler that fails on one kernel takes others.
                Err(error) if error.is_validation() => {
                    log::warn!("{kernel} failed on this device: {error}");
                    return Ok(Verdict::Unsupported);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Verdict::Right)
    }

    /// Means over the problems.
    async fn times(&mut self, kernels: &[Kernel]) -> Result<Vec<f64>> {
        let mut means = vec![0.0; kernels.len()];
        for problem in &self.problems {
            for (mean, time) in means.iter_mut().zip(problem.times(kernels, self.rounds).await?) {
                *mean += time.as_secs_f64().max(1e-9).ln() / self.problems.len() as f64;
            }
        }
        Ok(means)
    }
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
