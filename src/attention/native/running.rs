//! Attention states merged one after another: rounds, and parts of the keys.

use crate::attention::inputs::attention::is_sink;
use crate::attention::rounds::Combine;
use crate::error::{Error, Result, ensure};
use crate::limits::MAX_ELEMENTS;

/// The merge of attention states so far: of rounds of sampling, or of calls over different keys.
///
/// A state is the output O and the natural log-sum-exp L of each row. With `w = e^L`, after R
/// states
///
/// ```text
/// Ô = Σᵣ wᵣ·Oᵣ / Σᵣ wᵣ        L̂ = ln Σᵣ wᵣ  (− ln R for independent rounds)
/// SE² = R/(R − 1) · Σᵣ wᵣ²·|Oᵣ − Ô|² / (Σᵣ wᵣ)²             (beside a sink: shaders/attention/merge.wgsl)
/// ```
///
/// as [`RoundsPlan`](crate::rounds::RoundsPlan) has it on a device, by the same recurrence (West
/// 1979), in f64. Where heads have [sinks](RunningMerge::with_sinks), states are without, and what
/// is merged is beside them. Empty rows (L = −∞) add nothing, and where all are empty, so is the
/// merged one; a row that is NaN makes the merged one NaN.
///
/// ```
/// use prflash::native::RunningMerge;
/// use prflash::rounds::Combine;
/// // One row of one channel, over two halves of its keys.
/// let mut merge = RunningMerge::new(Combine::Partition, 1, 1)?;
/// merge.add(&[1.0], &[0.0])?;
/// merge.add(&[3.0], &[3.0_f32.ln()])?;
/// assert!((merge.output()[0] - 2.5).abs() < 1e-6);
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RunningMerge {
    combine: Combine,
    dim: usize,
    states: usize,
    rows: Vec<Row>,
    output: Vec<f32>,
    lse: Vec<f32>,
    /// Of each row, if heads have them.
    sinks: Option<Vec<f32>>,
    /// `Σ w²·O / Σ w²` of each row and channel, for independent rounds.
    centres: Vec<f64>,
    means: Vec<f64>,
}

/// The running sums of a row.
#[derive(Clone, Copy, Debug)]
struct Row {
    /// `ln Σ w`.
    log: f64,
    /// `Σ w² / (Σ w)²`.
    square: f64,
    /// `Σ w²·|O − M|² / Σ w²`, M being the centre.
    spread: f64,
}

impl RunningMerge {
    /// Without a state yet, for `rows` rows of `dim` channels.
    ///
    /// # Errors
    /// Invalid argument (`dim`) if 0; too large (`rows`) past [`MAX_ELEMENTS`] numbers.
    pub fn new(combine: Combine, rows: usize, dim: usize) -> Result<Self> {
        ensure!(dim > 0, "dim", "expected at least 1 channel, got 0");
        let numbers = rows.checked_mul(dim).filter(|&numbers| numbers <= MAX_ELEMENTS);
        let Some(numbers) = numbers else {
            let message = format!("{rows} rows of {dim} channels are past {MAX_ELEMENTS} numbers");
            return Err(Error::too_large("rows", message));
        };
        let spread = if combine == Combine::Independent { numbers } else { 0 };
        Ok(Self {
            combine,
            dim,
            states: 0,
            rows: vec![Row { log: f64::NEG_INFINITY, square: 0.0, spread: 0.0 }; rows],
            output: vec![0.0; numbers],
            lse: vec![f32::NEG_INFINITY; rows],
            sinks: None,
            centres: vec![0.0; spread],
            means: vec![0.0; numbers],
        })
    }

    /// With a sink for each row, that of its head
    /// ([`Attention::with_sinks`](crate::Attention::with_sinks)): states are to be those of the
    /// attention [without](crate::Attention::without_sinks).
    ///
    /// ```
    /// use prflash::native::RunningMerge;
    /// use prflash::rounds::Combine;
    /// // Two rows of one channel; of the second, nothing is seen.
    /// let mut merge = RunningMerge::new(Combine::Partition, 2, 1)?.with_sinks(&[0.0, 0.5])?;
    /// merge.add(&[1.0, 0.0], &[0.0, f32::NEG_INFINITY])?;
    /// assert_eq!((merge.output(), merge.lse()), (&[0.5, 0.0][..], &[2_f32.ln(), 0.5][..]));
    /// # Ok::<(), prflash::Error>(())
    /// ```
    ///
    /// # Errors
    /// Invalid argument (`sinks`) for another number of rows, or a sink that is not within ±10³⁰;
    /// (`states`) once there is a state.
    pub fn with_sinks(self, sinks: &[f32]) -> Result<Self> {
        let (want, got) = (self.rows.len(), sinks.len());
        ensure!(got == want, "sinks", "expected one for each of {want} rows, got {got}");
        ensure!(self.states == 0, "states", "expected none before the sinks, got {}", self.states);
        for (row, sink) in sinks.iter().enumerate() {
            ensure!(is_sink(*sink), "sinks", "expected numbers within ±1e30, got {sink:e} of row {row}");
        }
        Ok(Self { lse: sinks.to_vec(), sinks: Some(sinks.to_vec()), ..self })
    }

    /// Takes in one more state: `output` is `[rows, dim]`, `lse` is `[rows]`.
    ///
    /// # Errors
    /// Invalid argument (`output`, `lse`) for other lengths. Nothing is taken in then.
    pub fn add(&mut self, output: &[f32], lse: &[f32]) -> Result<()> {
        for (argument, want, got) in
            [("output", self.output.len(), output.len()), ("lse", self.lse.len(), lse.len())]
        {
            ensure!(want == got, argument, "expected {want} numbers, got {got}");
        }
        self.states += 1;
        for (index, (added, &log)) in output.chunks_exact(self.dim).zip(lse).enumerate() {
            self.add_row(index, added, f64::from(log));
        }
        Ok(())
    }

    fn add_row(&mut self, index: usize, added: &[f32], log: f64) {
        let row = &mut self.rows[index];
        let channels = index * self.dim..(index + 1) * self.dim;
        // The maximum passes over a NaN, but what is computed with it doesn't.
        let highest = row.log.max(log);
        let empty = row.log == f64::NEG_INFINITY && log == f64::NEG_INFINITY;
        let [old, new] = [row.log, log].map(|log| if empty { 0.0 } else { (log - highest).exp() });
        let sum = if empty { 1.0 } else { old + new };
        let (kept, share) = (old / sum, new / sum);
        for (mean, &x) in self.means[channels.clone()].iter_mut().zip(added) {
            *mean = *mean * kept + f64::from(x) * share;
        }
        if !self.centres.is_empty() {
            // Shares by squared weight.
            let (old_square, new_square) = (row.square * kept * kept, share * share);
            let square = old_square + new_square;
            let part = if empty { 0.0 } else { new_square / square };
            let mut moved = 0.0;
            for (centre, &x) in self.centres[channels.clone()].iter_mut().zip(added) {
                let step = f64::from(x) - *centre;
                moved += step * step;
                *centre += part * step;
            }
            (row.square, row.spread) = (square, (1.0 - part) * (row.spread + part * moved));
        }
        row.log = if empty { f64::NEG_INFINITY } else { highest + sum.ln() };
        let rounds = if self.combine == Combine::Independent { (self.states as f64).ln() } else { 0.0 };
        let own = row.log - rounds;
        let (kept, lse) = self.beside_sink(index, own);
        self.lse[index] = lse as f32;
        for (output, mean) in self.output[channels.clone()].iter_mut().zip(&self.means[channels]) {
            *output = (*mean * kept) as f32;
        }
    }

    /// What a row's output keeps beside its sink, if it has one, and its log-sum-exp then; of an
    /// empty row all, which is 0.
    fn beside_sink(&self, index: usize, own: f64) -> (f64, f64) {
        let Some(sinks) = &self.sinks else { return (1.0, own) };
        let sink = f64::from(sinks[index]);
        if own == f64::NEG_INFINITY {
            return (1.0, sink);
        }
        let whole = own.max(sink) + (-(own - sink).abs()).exp().ln_1p();
        ((own - whole).exp(), whole)
    }

    /// States so far.
    pub fn states(&self) -> usize {
        self.states
    }

    /// The merged output, `[rows, dim]`: 0 before there is a state.
    pub fn output(&self) -> &[f32] {
        &self.output
    }

    /// The merged natural-log log-sum-exp, `[rows]`: −∞, or the sink, before there is a state.
    pub fn lse(&self) -> &[f32] {
        &self.lse
    }

    /// The standard error of each output row, as the Euclidean norm over its channels; infinite
    /// after one round. `None` where states are no independent rounds.
    ///
    /// It is a first-order (delta method; Cochran 1977, §6) estimate of sampling error, and can't
    /// see what no round visited.
    pub fn standard_errors(&self) -> Option<Vec<f32>> {
        let rounds = self.states as f64;
        let error = |(index, row): (usize, &Row)| {
            if self.states < 2 {
                return f32::INFINITY;
            }
            let channels = index * self.dim..(index + 1) * self.dim;
            let pairs = self.centres[channels.clone()].iter().zip(&self.means[channels]);
            let (mut apart, mut along, mut size) = (0.0, 0.0, 0.0);
            for (centre, mean) in pairs {
                apart += (centre - mean).powi(2);
                along += mean * (centre - mean);
                size += mean * mean;
            }
            let (kept, _) = self.beside_sink(index, row.log - rounds.ln());
            let mut squares = row.spread + apart;
            if self.sinks.is_some() && row.square > 0.0 {
                // A round's own sum says what share of it the sink leaves.
                let varied = (1.0 - 1.0 / (rounds * row.square)).max(0.0);
                squares += (1.0 - kept) * (2.0 * along + (1.0 - kept) * size * varied);
                squares = if squares < 0.0 { 0.0 } else { squares }; // by rounding alone
            }
            (kept * (rounds / (rounds - 1.0) * row.square * squares).sqrt()) as f32
        };
        (self.combine == Combine::Independent).then(|| self.rows.iter().enumerate().map(error).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{Exact, Magnitudes, merge};

    /// Output and log-sum-exp of rows of 2 channels.
    fn state(seed: u32, rows: usize) -> (Vec<f32>, Vec<f32>) {
        let number = |index: usize| (index as f32 * 1.7 + seed as f32 * 3.1).sin();
        ((0..2 * rows).map(number).collect(), (0..rows).map(|row| 5.0 * number(row + 90)).collect())
    }

    #[test]
    fn merges_are_the_oracles() {
        let mut states: Vec<_> = (0..6).map(|seed| state(seed, 5)).collect();
        // Row 0 is empty at first, row 1 always, row 2 is NaN once.
        states[0].1[0] = f32::NEG_INFINITY;
        states[0].0[..2].fill(0.0);
        for (output, lse) in &mut states {
            lse[1] = f32::NEG_INFINITY;
            output[2..4].fill(0.0);
        }
        states[3].1[2] = f32::NAN;
        states[3].0[4..6].fill(f32::NAN);
        for combine in [Combine::Independent, Combine::Partition] {
            let mut running = RunningMerge::new(combine, 5, 2).unwrap();
            for count in 1..=states.len() {
                let (output, lse) = &states[count - 1];
                running.add(output, lse).unwrap();
                let exact = |(output, lse): &(Vec<f32>, Vec<f32>)| Exact {
                    output: output.iter().map(|&x| x.into()).collect(),
                    lse: lse.iter().map(|&x| x.into()).collect(),
                    rows: vec![Magnitudes::default(); 5],
                };
                let all: Vec<Exact> = states[..count].iter().map(exact).collect();
                let want = merge(&all, combine == Combine::Independent).unwrap();
                let got = running.output().iter().chain(running.lse());
                for (&got, &want) in got.zip(want.output.iter().chain(&want.lse)) {
                    let close = (f64::from(got) - want).abs() <= 1e-6 * (1.0 + want.abs());
                    let same = f64::from(got) == want || got.is_nan() && want.is_nan();
                    assert!(close || same, "{got} for {want}");
                }
                assert_eq!(running.states(), count);
            }
        }
    }

    #[test]
    fn standard_errors_are_those_of_the_formula() {
        let states: Vec<_> = (0..7).map(|seed| state(seed, 3)).collect();
        let mut running = RunningMerge::new(Combine::Independent, 3, 2).unwrap();
        for (output, lse) in &states {
            running.add(output, lse).unwrap();
            let infinite = running.standard_errors().unwrap().iter().all(|error| error.is_infinite());
            assert_eq!(infinite, running.states() == 1);
        }
        for (row, &got) in running.standard_errors().unwrap().iter().enumerate() {
            let terms = states.iter().map(|(output, lse)| {
                let apart = |c: usize| f64::from(output[2 * row + c] - running.output()[2 * row + c]).powi(2);
                (f64::from(lse[row]).exp(), apart(0) + apart(1))
            });
            let (weights, squares) = terms.fold((0.0, 0.0), |(sum, squares), (weight, apart)| {
                (sum + weight, squares + weight * weight * apart)
            });
            let want = (7.0 / 6.0 * squares).sqrt() / weights;
            assert!((f64::from(got) - want).abs() < 1e-6 * want.max(1.0), "{got} for {want}");
        }
        let partition = RunningMerge::new(Combine::Partition, 3, 2).unwrap();
        assert!(partition.standard_errors().is_none());
    }

    #[test]
    fn sinks_are_added_once() {
        let mut states: Vec<_> = (0..5).map(|seed| state(seed, 3)).collect();
        // Row 2 sees nothing.
        for (output, lse) in &mut states {
            output[4..].fill(0.0);
            lse[2] = f32::NEG_INFINITY;
        }
        let sinks = [0.5, 4.0, -1.0];
        for combine in [Combine::Independent, Combine::Partition] {
            let mut plain = RunningMerge::new(combine, 3, 2).unwrap();
            let mut running = plain.clone().with_sinks(&sinks).unwrap();
            assert_eq!((running.output(), running.lse()), (&[0.0; 6][..], &sinks[..]));
            for (output, lse) in &states {
                plain.add(output, lse).unwrap();
                running.add(output, lse).unwrap();
            }
            for (row, &sink) in sinks.iter().enumerate() {
                let [own, beside] = [plain.lse()[row], sink].map(|log| f64::from(log).exp());
                let close = |got: f32, want: f64| (f64::from(got) - want).abs() < 1e-6 * (1.0 + want.abs());
                assert!(close(running.lse()[row], (own + beside).ln()));
                for c in 2 * row..2 * row + 2 {
                    let want = f64::from(plain.output()[c]) * own / (own + beside);
                    assert!(close(running.output()[c], want));
                }
                let Some(errors) = running.standard_errors() else { continue };
                // The spread of what a round adds to numerator and denominator.
                let terms = states.iter().map(|(output, lse)| {
                    let weight = f64::from(lse[row]).exp();
                    let apart = |c: usize| {
                        let (of_round, all) = (output[2 * row + c], running.output()[2 * row + c]);
                        (weight * f64::from(of_round) - (weight + beside) * f64::from(all)).powi(2)
                    };
                    apart(0) + apart(1)
                });
                let want = (5.0 / 4.0 * terms.sum::<f64>()).sqrt() / (5.0 * (own + beside));
                assert!(close(errors[row], want), "{} for {want}", errors[row]);
            }
        }
    }

    #[test]
    fn refusals_name_the_argument() {
        let new = |rows, dim| RunningMerge::new(Combine::Partition, rows, dim).unwrap_err();
        assert_eq!(new(1, 0).argument(), Some("dim"));
        assert!(new(usize::MAX, 2).is_too_large() && new(1 << 32, 1).is_too_large());
        let mut merge = RunningMerge::new(Combine::Partition, 2, 2).unwrap();
        assert_eq!(merge.add(&[0.0; 3], &[0.0; 2]).unwrap_err().argument(), Some("output"));
        assert_eq!(merge.add(&[0.0; 4], &[0.0; 3]).unwrap_err().argument(), Some("lse"));
        assert_eq!(merge.states(), 0);
        for sinks in [&[0.0][..], &[0.0; 3], &[0.0, f32::NAN], &[f32::NEG_INFINITY, 0.0]] {
            let refused = merge.clone().with_sinks(sinks).unwrap_err();
            assert_eq!(refused.argument(), Some("sinks"));
        }
        merge.add(&[0.0; 4], &[0.0; 2]).unwrap();
        assert_eq!(merge.with_sinks(&[0.0; 2]).unwrap_err().argument(), Some("states"));
    }
}
