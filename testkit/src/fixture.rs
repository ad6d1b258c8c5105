//! The attention inputs of a real language model that ship with the repository; see
//! `fixtures/README.md`.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use half::f16;
use prflash::position::Pairing;
use prflash::{Attention, DType, Layout, Rope, Shape, Tensor};
use safetensors::{Dtype, SafeTensors};

use crate::repository;

/// One KV group of one layer: 3 query heads on 1 key/value head.
pub struct Layer {
    /// The layer's number in the model.
    pub index: u32,
    /// The sizes: 3 heads, 1 KV head, `tokens` long, 64 channels.
    pub shape: Shape,
    /// `[3, tokens, 64]`, rotated.
    pub q: Vec<f32>,
    /// `[1, tokens, 64]`, rotated.
    pub k: Vec<f32>,
    /// `[1, tokens, 64]`.
    pub v: Vec<f32>,
    /// `q` before rotation, as the model's projections give it.
    pub unrotated_q: Vec<f32>,
    /// `k` before rotation.
    pub unrotated_k: Vec<f32>,
    /// The rotation that the model has.
    pub rope: Rope,
}

impl Layer {
    /// Causal attention that rotates unrotated queries and keys itself.
    pub fn attention(&self) -> Attention {
        Attention::causal().with_positions(self.rope.clone().into())
    }

    /// `q`, `k` and `v` on a device, in f32.
    ///
    /// # Errors
    /// It has no place for them.
    pub fn upload(&self, context: &prflash::Context) -> Result<[Tensor; 3]> {
        self.place(context, &self.q, &self.k)
    }

    /// The same before rotation.
    ///
    /// # Errors
    /// The device has no place for them.
    pub fn upload_unrotated(&self, context: &prflash::Context) -> Result<[Tensor; 3]> {
        self.place(context, &self.unrotated_q, &self.unrotated_k)
    }

    fn place(&self, context: &prflash::Context, q: &[f32], k: &[f32]) -> Result<[Tensor; 3]> {
        let shape = &self.shape;
        let tensor = |heads, values: &[f32]| -> Result<Tensor> {
            let layout = Layout::heads_first(1, heads, shape.q_len(), shape.head_dim())?;
            Ok(Tensor::upload(context, DType::F32, layout, values)?)
        };
        Ok([tensor(shape.heads(), q)?, tensor(shape.kv_heads(), k)?, tensor(shape.kv_heads(), &self.v)?])
    }

    /// The largest |v|.
    pub fn max_value(&self) -> f64 {
        self.v.iter().fold(0.0, |max, x| f64::max(max, f64::from(x.abs())))
    }
}

/// The fixture isn't there: packages leave it out, for its size.
#[derive(Debug)]
pub struct Missing(PathBuf);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.0.display();
        write!(f, "{path} isn't there: packages leave it out, a clone of the repository has it, and ")?;
        write!(f, "scripts/make-fixture makes it anew")
    }
}

impl std::error::Error for Missing {}

/// The first `tokens` tokens (at most all 3,840) of every layer in the fixture.
///
/// # Errors
/// The file isn't there ([`Missing`]), can't be read, or isn't what `fixtures/README.md` says.
pub fn load(tokens: usize) -> Result<Vec<Layer>> {
    let path = repository().join("fixtures/smollm2-135m-persuasion.safetensors");
    if !path.exists() {
        return Err(Missing(path).into());
    }
    let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let tensors = SafeTensors::deserialize(&bytes).with_context(|| format!("parsing {}", path.display()))?;
    let (_, metadata) = SafeTensors::read_metadata(&bytes)?;
    let facts = metadata.metadata().as_ref().context("the fixture has no metadata")?;
    let fact = |name: &str| facts.get(name).with_context(|| format!("the fixture's metadata lacks {name}"));
    let base: f64 = fact("rope_base")?.parse()?;
    let pairing = match fact("rope_pairing")?.as_str() {
        "interleaved" => Pairing::Interleaved,
        "half" => Pairing::Half,
        other => anyhow::bail!("unknown rope_pairing {other:?}"),
    };
    let mut layers = Vec::new();
    for index in fact("layers")?.split(',') {
        let index: u32 = index.trim().parse()?;
        let tensor = |name: &str| -> Result<(Vec<f32>, [usize; 3])> {
            let view = tensors.tensor(&format!("layer{index}.{name}"))?;
            ensure!(view.dtype() == Dtype::F16, "expected f16 in layer{index}.{name}");
            let [heads, len, dim] = view.shape() else { anyhow::bail!("expected [heads, len, dim]") };
            let values = |b: &[u8]| f16::from_le_bytes([b[0], b[1]]).to_f32();
            let rows = view.data().chunks_exact(2).map(values).collect::<Vec<f32>>();
            // The first tokens of every head.
            let kept = rows.chunks_exact(len * dim).flat_map(|head| &head[..tokens.min(*len) * dim]);
            Ok((kept.copied().collect(), [*heads, tokens.min(*len), *dim]))
        };
        let ((mut q, [heads, len, dim]), (mut k, [kv_heads, ..]), (v, _)) =
            (tensor("q")?, tensor("k")?, tensor("v")?);
        let rope = Rope::new(dim, base, pairing)?;
        let (unrotated_q, unrotated_k) = (q.clone(), k.clone());
        for head in q.chunks_exact_mut(len * dim).chain(k.chunks_exact_mut(len * dim)) {
            rope.rotate(head, 0)?;
        }
        let shape = Shape::new(heads, kv_heads, len, dim)?;
        layers.push(Layer { index, shape, q, k, v, unrotated_q, unrotated_k, rope });
    }
    Ok(layers)
}
