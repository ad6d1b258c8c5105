//! A forward pass in f64, in plain loops over the tensors of a file: independent of the lab's, and
//! of what the lab makes of metadata. What a model is, the test says.

use std::collections::HashMap;
use std::path::Path;

use candle_core::Device;
use candle_core::quantized::gguf_file::Content;

use super::{HEAD_DIM, HEADS, LAYERS, Tiny, WINDOW};

/// Radians per token of each pair of channels, and the factor on cos and sin.
pub type Turn = (Vec<f64>, f64);

/// What a model computes beside its tensors.
pub struct Facts {
    pub tiny: Tiny,
    /// By layer.
    pub rope: Vec<Turn>,
    /// By layer: the tokens that a query sees.
    pub windows: Vec<usize>,
    pub scale: f64,
    pub soft_cap: Option<f64>,
    pub logit_soft_cap: Option<f64>,
}

/// `base^(−2i/channels)`.
pub fn frequencies(base: f64, channels: usize) -> Vec<f64> {
    (0..channels / 2).map(|pair| base.powf(-2.0 * pair as f64 / channels as f64)).collect()
}

/// Llama 3's division of a frequency, as in `apply_scaling` of meta-llama/llama-models.
pub fn llama3(frequency: f64, factor: f64) -> f64 {
    let wavelength = std::f64::consts::TAU / frequency;
    match wavelength {
        short if short < 8192.0 / 4.0 => frequency,
        long if long > 8192.0 => frequency / factor,
        between => {
            let smooth = (8192.0 / between - 1.0) / (4.0 - 1.0);
            (1.0 - smooth) * frequency / factor + smooth * frequency
        }
    }
}

impl Facts {
    /// Those of a small model as [`Tiny::write`] writes it.
    pub fn new(tiny: Tiny) -> Self {
        // Gemma's second and fourth layer see everything.
        let sliding = |layer: usize| matches!(tiny, Tiny::Gemma) && layer.is_multiple_of(2);
        let base = |layer| if sliding(layer) { 1e4 } else { f64::from(1e5f32) };
        Self {
            tiny,
            rope: (0..LAYERS).map(|layer| (frequencies(base(layer), HEAD_DIM), 1.0)).collect(),
            windows: (0..LAYERS).map(|layer| if sliding(layer) { WINDOW } else { usize::MAX }).collect(),
            scale: 1.0 / (HEAD_DIM as f64).sqrt(),
            soft_cap: None,
            logit_soft_cap: None,
        }
    }

    /// The logits of every token.
    pub fn logits(&self, path: &Path, tokens: &[u32]) -> Vec<f32> {
        let weights = Weights::read(path);
        let gemma = matches!(self.tiny, Tiny::Gemma);
        let mut x: Vec<Vec<f64>> = tokens.iter().map(|&id| weights.row("token_embd", id)).collect();
        if gemma {
            let size = (x[0].len() as f64).sqrt();
            x.iter_mut().flatten().for_each(|x| *x *= size);
        }
        for layer in 0..LAYERS {
            let name = |part: &str| format!("blk.{layer}.{part}");
            let project = |part: &str, heads: usize, norm: &str| -> Vec<Vec<Vec<f64>>> {
                let of_token = |x: &Vec<f64>| {
                    let y = weights.linear(&name(part), &weights.norm(&name("attn_norm"), x));
                    let heads = y.chunks_exact(y.len() / heads);
                    heads
                        .map(|y| {
                            if gemma && !norm.is_empty() { weights.norm(&name(norm), y) } else { y.to_vec() }
                        })
                        .collect()
                };
                x.iter().map(of_token).collect()
            };
            let kv_heads = self.tiny.kv_heads();
            let mut q = project("attn_q", HEADS, "attn_q_norm");
            let mut k = project("attn_k", kv_heads, "attn_k_norm");
            let v = project("attn_v", kv_heads, "");
            for rows in [&mut q, &mut k] {
                for (position, heads) in rows.iter_mut().enumerate() {
                    heads.iter_mut().for_each(|row| self.rotate(layer, row, position));
                }
            }
            for (i, x) in x.iter_mut().enumerate() {
                let first = (i + 1).saturating_sub(self.windows[layer]);
                let head = |head: usize| {
                    let kv = head * kv_heads / HEADS;
                    let score = |j: usize| {
                        let score = self.scale * dot(&q[i][head], &k[j][kv]);
                        self.soft_cap.map_or(score, |cap| cap * (score / cap).tanh())
                    };
                    let weights: Vec<f64> = (first..=i).map(|j| score(j).exp()).collect();
                    let total: f64 = weights.iter().sum();
                    let channel = |c: usize| {
                        (first..=i).zip(&weights).map(|(j, weight)| weight * v[j][kv][c]).sum::<f64>() / total
                    };
                    (0..HEAD_DIM).map(channel).collect::<Vec<_>>()
                };
                let seen: Vec<f64> = (0..HEADS).flat_map(head).collect();
                let mut seen = weights.linear(&name("attn_output"), &seen);
                if gemma {
                    seen = weights.norm(&name("post_attention_norm"), &seen);
                }
                x.iter_mut().zip(seen).for_each(|(x, y)| *x += y);
                let input = weights.norm(&name("ffn_norm"), x);
                let gate = weights.linear(&name("ffn_gate"), &input).into_iter().map(|x| match gemma {
                    true => {
                        0.5 * x
                            * (1.0
                                + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
                    }
                    false => x / (1.0 + (-x).exp()),
                });
                let hidden: Vec<f64> =
                    gate.zip(weights.linear(&name("ffn_up"), &input)).map(|(a, b)| a * b).collect();
                let mut hidden = weights.linear(&name("ffn_down"), &hidden);
                if gemma {
                    hidden = weights.norm(&name("post_ffw_norm"), &hidden);
                }
                x.iter_mut().zip(hidden).for_each(|(x, y)| *x += y);
            }
        }
        let cap = |x: f64| self.logit_soft_cap.map_or(x, |cap| cap * (x / cap).tanh());
        let of_token = |x: &Vec<f64>| weights.linear("token_embd", &weights.norm("output_norm", x));
        x.iter().flat_map(of_token).map(|x| cap(x) as f32).collect()
    }

    fn rotate(&self, layer: usize, row: &mut [f64], position: usize) {
        let (frequencies, size) = &self.rope[layer];
        for (pair, frequency) in frequencies.iter().enumerate() {
            let (a, b) = match self.tiny {
                Tiny::Llama => (2 * pair, 2 * pair + 1),
                Tiny::Gemma => (pair, pair + frequencies.len()),
            };
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            (row[a], row[b]) = (size * (row[a] * cos - row[b] * sin), size * (row[a] * sin + row[b] * cos));
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

struct Weights(HashMap<String, (Vec<usize>, Vec<f64>)>);

impl Weights {
    fn read(path: &Path) -> Self {
        let mut file = std::fs::File::open(path).unwrap();
        let content = Content::read(&mut file).unwrap();
        let names = content.tensor_infos.keys();
        let values = names.map(|name| {
            let tensor =
                content.tensor(&mut file, name, &Device::Cpu).unwrap().dequantize(&Device::Cpu).unwrap();
            let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            (name.clone(), (tensor.dims().to_vec(), values.into_iter().map(f64::from).collect()))
        });
        Self(values.collect())
    }

    fn row(&self, name: &str, row: u32) -> Vec<f64> {
        let (dims, values) = &self.0[&format!("{name}.weight")];
        values.chunks_exact(dims[1]).nth(row as usize).unwrap().to_vec()
    }

    fn linear(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let (dims, values) = &self.0[&format!("{name}.weight")];
        let mut y: Vec<f64> = values.chunks_exact(dims[1]).map(|row| dot(row, x)).collect();
        if let Some((_, bias)) = self.0.get(&format!("{name}.bias")) {
            y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
        }
        y
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let (_, weight) = &self.0[&format!("{name}.weight")];
        let size = (dot(x, x) / x.len() as f64 + f64::from(1e-5f32)).sqrt();
        x.iter().zip(weight).map(|(x, weight)| x / size * weight).collect()
    }
}
