//! How the native engine computes.

use std::sync::Arc;

use crate::error::{Error, Result, ensure};
use crate::limits::MAX_THREADS;

/// How a [`NativePlan`](super::NativePlan) computes. Results have the same bits whatever is chosen
/// here, on the same machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NativeOptions {
    threads: Option<usize>,
}

impl NativeOptions {
    /// On the threads of rayon's global pool.
    pub const fn new() -> Self {
        Self { threads: None }
    }

    /// On so many threads: on the caller's alone if 1, else on a pool of the plan's own.
    ///
    /// # Errors
    /// Invalid argument unless from 1 to [`MAX_THREADS`].
    pub fn with_threads(self, threads: usize) -> Result<Self> {
        ensure!(
            (1..=MAX_THREADS).contains(&threads),
            "threads",
            "expected 1 to {MAX_THREADS}, got {threads}"
        );
        Ok(Self { threads: Some(threads) })
    }

    /// The threads, if they were chosen.
    pub fn threads(&self) -> Option<usize> {
        self.threads
    }
}

/// The threads of a plan.
#[derive(Clone, Debug)]
pub(super) enum Threads {
    /// The caller's.
    One,
    Own(Arc<rayon::ThreadPool>),
    Global,
}

impl Threads {
    pub(super) fn new(options: &NativeOptions) -> Result<Self> {
        Ok(match options.threads {
            Some(1) => Self::One,
            Some(threads) => {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .thread_name(|index| format!("prflash {index}"))
                    .build();
                let pool = pool
                    .map_err(|error| Error::unsupported(format!("no pool of {threads} threads: {error}")))?;
                Self::Own(Arc::new(pool))
            }
            None => Self::Global,
        })
    }

    /// Calls `work` on at most `most` of the threads at once, and waits.
    pub(super) fn each(&self, most: usize, work: impl Fn() + Sync) {
        use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
        let on_all = |threads: usize| {
            (0..threads.min(most)).into_par_iter().with_max_len(1).for_each(|_| work());
        };
        match self {
            _ if most <= 1 => work(),
            Self::One => work(),
            Self::Own(pool) => pool.install(|| on_all(pool.current_num_threads())),
            Self::Global => on_all(rayon::current_num_threads()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_argument() {
        for threads in [0, MAX_THREADS + 1, usize::MAX] {
            let refused = NativeOptions::new().with_threads(threads).unwrap_err();
            assert_eq!(refused.argument(), Some("threads"));
        }
        assert_eq!(NativeOptions::new().with_threads(3).unwrap().threads(), Some(3));
    }
}
