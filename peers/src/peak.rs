//! What the cores can do at most: fused multiplications and additions in registers alone.

use std::hint::black_box;
use std::time::Instant;

use pulp::{Arch, Simd, WithSimd};

/// Independent sums, so that no addition waits for another: two units of four cycles need eight.
const SUMS: usize = 12;

/// Steps of all sums.
struct Loop(usize);

impl WithSimd for Loop {
    /// The numbers of a register, and something to use the sums for.
    type Output = (usize, f32);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let (factor, added) = (simd.splat_f32s(black_box(0.999)), simd.splat_f32s(black_box(0.001)));
        let mut sums = [added; SUMS];
        for _ in 0..self.0 {
            for sum in &mut sums {
                *sum = simd.mul_add_f32s(*sum, factor, added);
            }
        }
        let total = sums.iter().map(|&sum| simd.reduce_sum_f32s(sum)).sum();
        (S::F32_LANES, total)
    }
}

/// FLOP a second of so many threads together, the best of some runs; a multiplication and an
/// addition count as two.
pub fn flops_per_second(threads: usize) -> f64 {
    // Some milliseconds each, so that one of many is likely to have the cores to itself.
    const STEPS: usize = 2_000_000;
    const RUNS: usize = 40;
    let arch = Arch::new();
    let run = || {
        let (lanes, total) = arch.dispatch(Loop(STEPS));
        black_box(total);
        (2 * lanes * SUMS * STEPS) as f64
    };
    let mut best: f64 = 0.0;
    for _ in 0..RUNS {
        let started = Instant::now();
        let flops: f64 = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
            workers.into_iter().map(|worker| worker.join().unwrap_or(0.0)).sum()
        });
        best = best.max(flops / started.elapsed().as_secs_f64());
    }
    best
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_core_does_more_than_a_billion_a_second() {
        let one = super::flops_per_second(1);
        assert!((1e9..1e13).contains(&one), "{one:e}");
    }
}
