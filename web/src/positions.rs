//! Biases against distance: their curves, and how far the attention reaches that they leave.

use prflash::position::{Distance, Pairing, Slopes};
use prflash::{Bias, Positions, Result, Rope};
use serde_json::{Value, json};

/// What the reader has chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wanted {
    /// Tokens of context.
    pub context: usize,
    /// Query heads.
    pub heads: usize,
    /// The length L of the factor `1/(1 + Δ/L)`, in tokens.
    pub length: f64,
    /// The lag from which on the capped harmonic distance is flat.
    pub cap: u64,
}

/// By name, and whether there is a factor.
fn combinations(wanted: &Wanted) -> Result<Vec<(&'static str, Positions)>> {
    let rope = || Rope::new(64, 1e4, Pairing::Half);
    let plain = |distance, slopes| Bias::new(distance, slopes).map(Positions::from);
    let factored = |distance| plain(distance, Slopes::Harmonic)?.with_harmonic_factor(wanted.length);
    Ok(vec![
        ("none (RoPE alone)", rope()?.into()),
        ("ALiBi", Bias::alibi().into()),
        ("harmonic, recommended", Positions::doubly_harmonic(rope()?)),
        ("logarithmic", plain(Distance::Log { rate: 1.0 }, Slopes::Harmonic)?),
        ("harmonic, capped", plain(Distance::CappedHarmonic { cap: wanted.cap }, Slopes::Harmonic)?),
        ("the paper's", Positions::paper(rope()?, wanted.length)?),
        ("harmonic with the factor", factored(Distance::Harmonic)?),
    ])
}

/// Of each combination the bias of the middle head and the mean prior over heads, at eight lags an
/// octave, and the share of the prior beyond a lag.
///
/// # Errors
/// Numbers that the library refuses, by name.
pub fn curves(wanted: &Wanted) -> Result<Value> {
    let context = wanted.context.clamp(2, 1 << 20);
    let mut lags: Vec<usize> =
        (0..).map(|i| 2f64.powf(f64::from(i) / 8.0) as usize).take_while(|&lag| lag < context).collect();
    lags.dedup();
    let mut curves = Vec::new();
    for (name, positions) in combinations(wanted)? {
        let distance: Vec<f64> = (0..context as u64).map(|lag| positions.bias_at(lag)).collect();
        let slopes = positions.slopes(wanted.heads)?;
        let middle = slopes[wanted.heads.div_ceil(2) - 1];
        let (mut prior, mut beyond) = (vec![0.0; lags.len()], vec![0.0; lags.len()]);
        for slope in &slopes {
            // From the far end, so that the small ones are not lost.
            let mut sums = vec![0.0; context + 1];
            for lag in (0..context).rev() {
                sums[lag] = sums[lag + 1] + (-slope * distance[lag]).exp();
            }
            for (at, &lag) in lags.iter().enumerate() {
                prior[at] += (-slope * distance[lag]).exp() / sums[0] / slopes.len() as f64;
                beyond[at] += sums[lag] / sums[0] / slopes.len() as f64;
            }
        }
        let bias: Vec<f64> = lags.iter().map(|&lag| middle * distance[lag]).collect();
        curves.push(json!({ "name": name, "bias": bias, "prior": prior, "beyond": beyond }));
    }
    Ok(json!({ "lags": lags, "curves": curves, "middle": wanted.heads.div_ceil(2) }))
}
