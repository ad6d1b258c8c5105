//! Searches of a surrogate, and how far from its best they are.

use anyhow::{Result, ensure};
use prflash::search::{Ask, Method, Search};
use testkit::statistics::median;

use super::surrogate::Surrogate;

/// A search by one seed: after each trial how far the best so far is from the best of all points,
///
/// ```text
/// regret = (max − best so far) / (max − median)
/// ```
///
/// with max and median of the surrogate over the whole space. So it is 1 at a point that half of
/// all are better than, and 0 at the best.
///
/// # Errors
/// A method that waits for scores while it has all, or a space with fewer points than trials.
pub fn regrets<M: Method>(surrogate: &Surrogate, method: M, seed: u64, trials: usize) -> Result<Vec<f64>> {
    let most = surrogate.scores().iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let unit = most - median(surrogate.scores());
    let mut search = Search::new(surrogate.space().clone(), method, seed);
    let mut best = f64::NEG_INFINITY;
    let mut regrets = Vec::with_capacity(trials);
    while regrets.len() < trials {
        let asked = search.ask();
        let Ask::Trial(trial) = &asked else { break };
        let score = surrogate.score(&trial.point);
        search.tell(trial.id, score)?;
        best = best.max(score);
        regrets.push((most - best) / unit);
    }
    ensure!(
        regrets.len() == trials,
        "{:?} ended after {} of {trials} trials",
        search.method(),
        regrets.len()
    );
    Ok(regrets)
}
