//! What predictions cost: the cross-entropy of the token that came.

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Shape, Tensor};

/// The negative log-likelihood of each target in nats, by logits `[targets, pieces]`.
pub fn each(logits: &[f32], targets: &[u32]) -> Vec<f64> {
    let pieces = logits.len() / targets.len().max(1);
    let one = |(row, &target): (&[f32], &u32)| log_sum_exp(row) - f64::from(row[target as usize]);
    logits.chunks_exact(pieces.max(1)).zip(targets).map(one).collect()
}

/// `ln Σ e^x`.
fn log_sum_exp(row: &[f32]) -> f64 {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // Few enough numbers for f32, of which none is above 1.
    let sum: f32 = row.iter().map(|x| (x - most).exp()).sum();
    f64::from(most) + f64::from(sum).ln()
}

/// The mean of [`each`] as an operation with a gradient, `(softmax − 1 at the target) / targets`.
pub struct CrossEntropy {
    /// The tokens that came, one for each row of logits.
    pub targets: Vec<u32>,
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (start, end) = layout
            .contiguous_offsets()
            .ok_or_else(|| candle_core::Error::msg("cross-entropy takes contiguous logits"))?;
        let costs = each(&storage.as_slice::<f32>()?[start..end], &self.targets);
        let mean = costs.iter().sum::<f64>() / costs.len() as f64;
        Ok((CpuStorage::F32(vec![mean as f32]), Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let scale = gradient.to_scalar::<f32>()? / self.targets.len() as f32;
        let mut numbers = logits.flatten_all()?.to_vec1::<f32>()?;
        let pieces = numbers.len() / self.targets.len().max(1);
        for (row, &target) in numbers.chunks_exact_mut(pieces.max(1)).zip(&self.targets) {
            let lse = log_sum_exp(row) as f32;
            row.iter_mut().for_each(|x| *x = scale * (*x - lse).exp());
            row[target as usize] -= scale;
        }
        Ok(Some(Tensor::from_vec(numbers, logits.shape(), &Device::Cpu)?))
    }
}
