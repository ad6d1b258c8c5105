//! The fastest kernel of a class: by timing all, or by a search where there are too many.

use super::candidates::Candidates;
use crate::attention::kernels::shapes::Kernel;
use crate::error::{Result, ensure};
use crate::search::{Ask, Method, Search, Trial};

/// How many of those that a search found are timed once more, together with the rule's choice.
const FINALISTS: usize = 4;
/// A ratio of times that is nearer to 1 is taken for noise.
const NOISE: f64 = 0.97;

/// What a trial of a kernel comes to before it is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It computes what the portable kernel does.
    Right,
    /// It computes something else.
    Wrong,
    /// The device can't run it.
    Unsupported,
}

/// Where kernels are tried: a device with problems of a class.
pub(super) trait Bench {
    /// Whether a kernel computes what it is to.
    async fn verdict(&mut self, kernel: Kernel) -> Result<Verdict>;

    /// Logarithms of the times of these kernels, each run in turn with the others in every round.
    /// Between two calls the device may have become faster or slower.
    async fn times(&mut self, kernels: &[Kernel]) -> Result<Vec<f64>>;
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Choice {
    pub(super) kernel: Kernel,
    /// The kernel's time over that of the rule's choice.
    pub(super) ratio: f64,
    pub(super) refused: Vec<Kernel>,
    pub(super) tried: usize,
}

/// Kernels tried so far.
struct Tried<'b, B> {
    bench: &'b mut B,
    right: Vec<Kernel>,
    refused: Vec<Kernel>,
    count: usize,
}

impl<B: Bench> Tried<'_, B> {
    /// Tries a kernel, and says whether its results are right.
    async fn add(&mut self, kernel: Kernel) -> Result<bool> {
        self.count += 1;
        let verdict = self.bench.verdict(kernel).await?;
        match verdict {
            Verdict::Right => self.right.push(kernel),
            Verdict::Wrong => self.refused.push(kernel),
            Verdict::Unsupported => {}
        }
        Ok(verdict == Verdict::Right)
    }
}

/// The fastest of these kernels, of which at most `trials` are tried; the rule's choice, which is
/// the first of them, unless another is faster by more than noise.
pub(super) async fn choose<M: Method>(
    bench: &mut impl Bench,
    candidates: &Candidates,
    trials: usize,
    method: M,
    seed: u64,
) -> Result<Choice> {
    let all = candidates.all().len() <= trials;
    let first = if all { candidates.all() } else { candidates.starts() };
    let mut tried = Tried { bench, right: Vec::new(), refused: Vec::new(), count: 0 };
    for &kernel in first.iter().take(trials) {
        tried.add(kernel).await?;
    }
    let finalists =
        if all { tried.right.clone() } else { search(&mut tried, candidates, trials, method, seed).await? };
    let Tried { bench, refused, count, .. } = tried;
    ensure!(!finalists.is_empty(), "kernel", "no kernel computes what the portable one does: {refused:?}");
    let times = bench.times(&finalists).await?;
    let rule = candidates.all()[0];
    let of_rule = finalists.iter().position(|&kernel| kernel == rule).map(|at| times[at]);
    let best = (0..finalists.len()).min_by(|&a, &b| times[a].total_cmp(&times[b])).unwrap_or(0);
    let ratio = of_rule.map_or(1.0, |time| (times[best] - time).exp());
    let stays = of_rule.is_some() && ratio > NOISE;
    let (kernel, ratio) = if stays { (rule, 1.0) } else { (finalists[best], ratio) };
    Ok(Choice { kernel, ratio, refused, tried: count })
}

/// Tries what a method proposes once the starts are timed, and gives the best of all.
///
/// A score compares a kernel with one that was timed in the same rounds, always the same: the
/// rule's choice, unless that is wrong. So scores of different rounds can be compared, whatever
/// has become of the device in between.
async fn search<B: Bench, M: Method>(
    tried: &mut Tried<'_, B>,
    candidates: &Candidates,
    trials: usize,
    method: M,
    seed: u64,
) -> Result<Vec<Kernel>> {
    // Logarithms of times over that of the first.
    let mut ratios: Vec<(Kernel, f64)> = Vec::new();
    if !tried.right.is_empty() {
        let times = tried.bench.times(&tried.right).await?;
        ratios.extend(tried.right.iter().zip(&times).map(|(&kernel, time)| (kernel, time - times[0])));
    }
    let score =
        |kernel| ratios.iter().find(|(other, _)| *other == kernel).map_or(f64::NAN, |(_, ratio)| -ratio);
    let starts = candidates.starts().iter().take(trials);
    let starts = starts.filter_map(|&kernel| Some((candidates.point(kernel)?, score(kernel))));
    let told = starts
        .zip(0..)
        .map(|((point, score), id)| (Trial { id, point, seed: 0, fidelity: 1.0 }, Some(score)));
    let mut search = Search::new(candidates.space().clone(), method, seed).resumed(told)?;
    while tried.count < trials {
        let Ask::Trial(trial) = search.ask() else { break };
        let mut score = f64::NAN;
        if let Some(kernel) = candidates.kernel(&trial.point)
            && tried.add(kernel).await?
        {
            let ratio = match ratios.first() {
                Some(&(reference, _)) => {
                    let times = tried.bench.times(&[reference, kernel]).await?;
                    times[1] - times[0]
                }
                None => 0.0,
            };
            ratios.push((kernel, ratio));
            score = -ratio;
        }
        search.tell(trial.id, score)?;
    }
    // The first stays, to be compared with.
    let others = ratios.get_mut(1..).unwrap_or_default();
    others.sort_by(|a, b| a.1.total_cmp(&b.1));
    Ok(ratios.into_iter().map(|(kernel, _)| kernel).take(1 + FINALISTS).collect())
}
