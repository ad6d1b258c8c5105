//! How much attention a group of keys may get, from what is known of them.

use super::summaries::Group;

/// What part of the deviation of independent channels the saturated estimate takes. Of ½, ¾ and 1
/// it was the best on texts that no result is of. Kernels read it, too.
pub(crate) const SHRINK: f32 = 0.75;

/// How the logarithm of the attention mass of some keys is estimated from their summaries.
///
/// With `half = (max − min)/2` of every channel and the scaled query q, the products of a group's
/// keys have the mean `a = Σ q·mean` (about `Σ q·(min + max)/2` where means aren't known). Were
/// the channels independent normal numbers, their standard deviation would be `σ`, `σ² = Σ
/// q²·(half/z)²`, where z is the largest of as many normal numbers as the group has tokens, on
/// average. Channels of real keys aren't independent, and three quarters of that, `s = ¾·σ`, was
/// measured to choose better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Estimate {
    /// `a + min(s²/2, z·s)`: the mean of e^x over normal numbers, which can't be above the largest
    /// of them. Nor is it ever above [`Bound`](Estimate::Bound).
    #[default]
    Saturated,
    /// `Σ max(q·min, q·max)`: no product is larger (Quest, arXiv 2406.10774). The masses that
    /// follow are upper bounds.
    Bound,
    /// q times the mean key. Needs means, which a cache's extremes don't have.
    MeanKey,
}

impl Estimate {
    /// Short lower-case name, for reports.
    pub fn name(self) -> &'static str {
        match self {
            Estimate::Saturated => "saturated",
            Estimate::Bound => "bound",
            Estimate::MeanKey => "mean key",
        }
    }

    /// An estimate of `ln mean e^(q·k)` over the keys of a group; −∞ of a group without tokens.
    pub(crate) fn of(self, q: &[f64], group: &Group<'_>, tokens: usize) -> f64 {
        if group.is_empty() {
            return f64::NEG_INFINITY;
        }
        match self {
            Estimate::MeanKey => mean(q, group).unwrap_or(f64::NEG_INFINITY),
            Estimate::Bound => {
                sum(q, group.least, group.largest, |q, least, largest| (q * least).max(q * largest))
            }
            Estimate::Saturated => {
                let middle =
                    sum(q, group.least, group.largest, |q, least, largest| q * (0.5 * (least + largest)));
                let square = sum(q, group.least, group.largest, |q, least, largest| {
                    let reach = q * (0.5 * (largest - least));
                    reach * reach
                });
                let centre = mean(q, group).unwrap_or(middle);
                // The farther one of both ends is the largest of twice as many numbers without
                // their signs.
                let z = mean_largest(if group.symmetric { 2 * tokens } else { tokens });
                if tokens <= 1 {
                    return centre;
                }
                let deviation = f64::from(SHRINK) * square.sqrt() / z;
                let saturated = centre + (0.5 * deviation * deviation).min(z * deviation);
                // About the middle of the extremes it is within the bound anyhow: z·σ is the length
                // of the vector whose sum of channels the bound adds.
                let central = group.symmetric || group.sums.is_none();
                if central { saturated } else { saturated.min(Estimate::Bound.of(q, group, tokens)) }
            }
        }
    }
}

/// q times the mean key, if that is known.
fn mean(q: &[f64], group: &Group<'_>) -> Option<f64> {
    let (sums, count) = group.sums?;
    Some(sum(q, sums, sums, |q, sum, _| q * sum) / count as f64)
}

/// Sums a function of (q, a, b) over the channels, in eight running sums, which compilers turn into
/// vector instructions; always in this order, so that the bits are the same everywhere.
fn sum(q: &[f64], a: &[f32], b: &[f32], of: impl Fn(f64, f64, f64) -> f64) -> f64 {
    let mut sums = [0.0; 8];
    let eights = q.chunks(8).zip(a.chunks(8).zip(b.chunks(8)));
    for (q, (a, b)) in eights {
        for (sum, (q, (a, b))) in sums.iter_mut().zip(q.iter().zip(a.iter().zip(b))) {
            *sum += of(*q, f64::from(*a), f64::from(*b));
        }
    }
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}

/// The largest of n standard normal numbers, on average: known at powers of two (order statistics
/// of the normal distribution), between them linear in `log₂ n`.
pub(crate) fn mean_largest(n: usize) -> f64 {
    const AT_POWERS: [f64; 11] =
        [0.0, 0.5642, 1.0294, 1.4236, 1.7660, 2.0697, 2.3437, 2.5946, 2.8269, 3.0439, 3.2482];
    let last = AT_POWERS.len() - 1;
    let x = libm::log2(n.max(1) as f64).min(last as f64);
    let below = (x as usize).min(last - 1);
    AT_POWERS[below] + (x - below as f64) * (AT_POWERS[below + 1] - AT_POWERS[below])
}
