//! AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), with gradients cut to a length.

use anyhow::{Result, ensure};
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};

use super::decoder::Parameter;

const BETAS: [f64; 2] = [0.9, 0.95];
const EPSILON: f64 = 1e-8;
/// The length of all gradients together at most.
const LONGEST: f64 = 1.0;

/// Running means of each weight's gradient and of its square.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdamW {
    /// Of the gradient.
    pub means: Vec<Vec<f32>>,
    /// Of its square.
    pub squares: Vec<Vec<f32>>,
}

impl AdamW {
    /// Nothing seen.
    pub fn new(parameters: &[Parameter]) -> Self {
        let zeros = || parameters.iter().map(|parameter| vec![0.0; parameter.value.elem_count()]).collect();
        Self { means: zeros(), squares: zeros() }
    }

    /// Takes a step, the first of which is 0, and gives the length of the gradients. Matrices
    /// decay, norms don't.
    ///
    /// # Errors
    /// Gradients that aren't finite: nothing was changed.
    pub fn step(
        &mut self,
        parameters: &[Parameter],
        gradients: &GradStore,
        step: usize,
        (rate, decay): (f64, f64),
    ) -> Result<f64> {
        let mut all = Vec::with_capacity(parameters.len());
        let mut square = 0.0;
        for parameter in parameters {
            let numbers = match gradients.get(parameter.value.as_tensor()) {
                Some(gradient) => gradient.flatten_all()?.to_vec1::<f32>()?,
                None => vec![0.0; parameter.value.elem_count()],
            };
            square += numbers.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
            all.push(numbers);
        }
        let length = square.sqrt();
        ensure!(length.is_finite(), "step {step}: gradients aren't finite; a lower --rate may help");
        let cut = if length > LONGEST { LONGEST / length } else { 1.0 } as f32;
        let [of_means, of_squares] = BETAS.map(|beta| beta as f32);
        let [unbias, unbias_squares] = BETAS.map(|beta| 1.0 - beta.powi(step as i32 + 1));
        let (each, epsilon) = ((rate / unbias) as f32, EPSILON as f32);
        let unbias_squares = (1.0 / unbias_squares) as f32;
        let states = self.means.iter_mut().zip(&mut self.squares);
        for ((parameter, gradients), (means, squares)) in parameters.iter().zip(&all).zip(states) {
            let mut numbers = parameter.value.flatten_all()?.to_vec1::<f32>()?;
            let kept = if parameter.value.rank() > 1 { (1.0 - rate * decay) as f32 } else { 1.0 };
            let states = means.iter_mut().zip(squares);
            for ((x, &gradient), (mean, square)) in numbers.iter_mut().zip(gradients).zip(states) {
                let gradient = cut * gradient;
                *mean = of_means * *mean + (1.0 - of_means) * gradient;
                *square = of_squares * *square + (1.0 - of_squares) * gradient * gradient;
                *x = kept * *x - each * *mean / ((*square * unbias_squares).sqrt() + epsilon);
            }
            parameter.value.set(&Tensor::from_vec(numbers, parameter.value.shape(), &Device::Cpu)?)?;
        }
        Ok(length)
    }
}
