//! Runs in turn, and what is computed from their times.

use std::any::Any;
use std::io::{IsTerminal as _, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use anyhow::{Result, anyhow, bail};
use cpu_time::ProcessTime;

/// One way to compute the attention of a problem.
pub trait Work {
    /// From the call until the result is there for the host to use or read.
    fn call(&mut self) -> Result<()>;

    /// Calls, and says how long that took.
    fn timed(&mut self) -> Result<Spent> {
        let (started, cpu) = (Instant::now(), ProcessTime::try_now()?);
        self.call()?;
        let wall = started.elapsed().as_secs_f64();
        Ok(Spent { wall, cpu: cpu.try_elapsed()?.as_secs_f64() })
    }

    /// The result of the last call, `[heads, queries, dim]`.
    fn result(&mut self) -> Result<Vec<f32>>;
}

/// The seconds of a call.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// By the clock.
    pub wall: f64,
    /// Of all cores together, which another program's work doesn't add to.
    pub cpu: f64,
}

/// A way that takes part, with its times.
pub struct Contestant {
    /// Who it is, the same over all problems.
    pub name: String,
    /// How it does it here.
    pub how: String,
    /// Wall seconds, one per round.
    pub seconds: Vec<f64>,
    /// Seconds of all cores together, likewise.
    pub cpu_seconds: Vec<f64>,
    /// Why it has no times, where it hasn't.
    pub failed: Option<String>,
    /// Why it takes no part at all, which is no failure.
    pub absent: Option<String>,
    /// Largest absolute difference from exact rows, computed on the host in f64.
    pub from_exact: Option<f64>,
    /// The output, where others are compared with it.
    pub output: Vec<f32>,
    work: Option<Box<dyn Work>>,
}

impl Contestant {
    /// A contestant; one that can't even start has failed.
    pub fn new(
        name: impl Into<String>,
        how: impl Into<String>,
        build: impl FnOnce() -> Result<Box<dyn Work>>,
    ) -> Self {
        let built = guarded(build);
        let failed = built.as_ref().err().map(|error| format!("{error:#}"));
        Self {
            name: name.into(),
            how: how.into(),
            seconds: Vec::new(),
            cpu_seconds: Vec::new(),
            failed,
            absent: None,
            from_exact: None,
            output: Vec::new(),
            work: built.ok(),
        }
    }

    /// One that takes no part.
    pub fn absent(name: impl Into<String>, why: impl Into<String>) -> Self {
        let mut absent = Self::new(name, "", || bail!("absent"));
        (absent.failed, absent.absent) = (None, Some(why.into()));
        absent
    }

    /// Whether it has times.
    pub fn ran(&self) -> bool {
        self.failed.is_none() && self.absent.is_none()
    }

    /// Runs something of the contestant's; `None` where it fails or has failed before.
    pub fn attempt<T>(&mut self, run: impl FnOnce(&mut dyn Work) -> Result<T>) -> Option<T> {
        let mut work = self.work.take()?;
        match guarded(|| run(&mut *work)) {
            Ok(value) => {
                self.work = Some(work);
                Some(value)
            }
            Err(error) => {
                self.fail(format!("{error:#}"));
                // After a panic inside a library, its destructors are no safer than its calls.
                std::mem::forget(work);
                None
            }
        }
    }

    /// Takes no further part.
    pub fn fail(&mut self, why: String) {
        eprintln!("{} ({}): {why}", self.name, self.how);
        self.seconds.clear();
        self.cpu_seconds.clear();
        self.failed = Some(why);
    }

    /// Calls until the times settle: autotuning, compiling and first touches are over then. Returns
    /// the last time.
    pub fn warm_up(&mut self) -> Option<f64> {
        let mut last = f64::INFINITY;
        for call in 0..8 {
            let seconds = self.attempt(|work| work.timed())?.wall;
            // A long call shows compiling and tuning in its second run at the latest.
            if call > 0 && (seconds - last).abs() < 0.25 * last && (call > 1 || seconds > 1.0) {
                return Some(seconds);
            }
            last = seconds;
        }
        Some(last)
    }

    /// Frees what the work holds; the times stay.
    pub fn retire(&mut self) {
        self.work = None;
        self.output = Vec::new();
    }
}

/// Panics become errors, so that one library's panic doesn't take the others' figures with it.
fn guarded<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic: Box<dyn Any + Send>| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(anyhow!("panicked: {message}"))
    })
}

/// How long a table may take.
#[derive(Clone, Copy)]
pub struct Effort {
    /// Rounds at most.
    pub rounds: usize,
    /// Rounds at least, however long they take.
    pub least_rounds: usize,
    /// Seconds after which no further round starts, once the least are done.
    pub seconds: f64,
}

/// Every contestant once per round, in an order that rotates, so that a slow moment of the machine
/// hits them alike and nobody always runs behind the same neighbour. Contestants are warm before.
pub fn interleave(label: &str, effort: Effort, contestants: &mut [Contestant]) -> Result<()> {
    let count = contestants.len();
    let started = Instant::now();
    for round in 0..effort.rounds {
        let elapsed = started.elapsed().as_secs_f64();
        if round >= effort.least_rounds && elapsed > effort.seconds {
            break;
        }
        let per_round = elapsed / round.max(1) as f64;
        let rounds = match per_round > 0.0 {
            true => ((effort.seconds / per_round).ceil() as usize).clamp(effort.least_rounds, effort.rounds),
            false => effort.rounds,
        };
        let left = per_round * rounds.saturating_sub(round) as f64;
        progress(&match round {
            0 => format!("{label}: round 1"),
            _ => format!("{label}: round {} of {rounds}, {left:.0} s left", round + 1),
        });
        for turn in 0..count {
            let contestant = &mut contestants[(round + turn) % count];
            if let Some(spent) = contestant.attempt(|work| work.timed()) {
                contestant.seconds.push(spent.wall);
                contestant.cpu_seconds.push(spent.cpu);
            }
        }
    }
    progress("");
    match contestants.iter().any(|contestant| !contestant.seconds.is_empty()) {
        true => Ok(()),
        false => bail!("{label}: nobody could be timed"),
    }
}

/// One line on stderr that the next one overwrites; nothing where stderr isn't a terminal.
pub fn progress(line: &str) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        let _ = write!(stderr, "\r\x1b[2K{line}");
        let _ = stderr.flush();
    }
}

/// The exponent `b` of `y ∝ xᵇ` by least squares on the logarithms, with its standard error (NaN
/// for two points).
pub fn exponent(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let count = points.len() as f64;
    if points.len() < 2 {
        return None;
    }
    let logs: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let mean_x = logs.iter().map(|p| p.0).sum::<f64>() / count;
    let mean_y = logs.iter().map(|p| p.1).sum::<f64>() / count;
    let square: f64 = logs.iter().map(|p| (p.0 - mean_x).powi(2)).sum();
    let slope = logs.iter().map(|p| (p.0 - mean_x) * (p.1 - mean_y)).sum::<f64>() / square;
    let residual: f64 = logs.iter().map(|p| (p.1 - mean_y - slope * (p.0 - mean_x)).powi(2)).sum();
    Some((slope, (residual / (count - 2.0) / square).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponent_of_a_power_and_of_a_noisy_one() {
        let power: Vec<(f64, f64)> = (1..6).map(|i| (f64::from(i), 3.0 * f64::from(i).powf(1.5))).collect();
        let (slope, error) = exponent(&power).unwrap();
        assert!((slope - 1.5).abs() < 1e-12 && error < 1e-12);
        // By hand: x = 0, 1, 2 and y = 0, 2, 2 have slope 1, residuals −1/3, 2/3, −1/3, so √(6/9 /
        // 1 / 2).
        let noisy = [(0.0, 0.0), (1.0, 2.0), (2.0, 2.0)].map(|(x, y): (f64, f64)| (x.exp(), y.exp()));
        let (slope, error) = exponent(&noisy).unwrap();
        assert!((slope - 1.0).abs() < 1e-12 && (error - (1.0f64 / 3.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn a_panic_is_a_failure_of_one() {
        struct Panics;
        impl Work for Panics {
            fn call(&mut self) -> Result<()> {
                panic!("no such shape")
            }
            fn result(&mut self) -> Result<Vec<f32>> {
                Ok(vec![])
            }
        }
        let mut contestant = Contestant::new("peer", "", || Ok(Box::new(Panics)));
        assert!(contestant.warm_up().is_none());
        assert_eq!(contestant.failed.as_deref(), Some("panicked: no such shape"));
        assert!(
            interleave("all", Effort { rounds: 1, least_rounds: 1, seconds: 1.0 }, &mut [contestant])
                .is_err()
        );
    }
}
