//! Cases of the RotaryEmbedding operator.
//!
//! The operator is given cosines and sines, and its cases have random ones: every pair of channels
//! turns by an angle of its own and grows by a factor of its own, in every row. A [`Rope`] has an
//! angle for each pair and one factor, its temperature. So each pair of a row is computed by a
//! `Rope` with its factor, at position 1, and read out of the turned row.

use anyhow::{Context as _, Result, ensure};
use prflash::position::Pairing;
use prflash::rotation::Rows;
use prflash::{DType, Layout, Rope, Tensor};
use serde_json::Value;
use testkit::backend::Backend;

use crate::numbers::{Numbers, Tolerance, flat, sizes};

/// One case: rows, cosines and sines, and what the rows should become.
pub struct Case {
    /// `[batch, heads, rows, channels]`
    input: Numbers,
    cos: Numbers,
    sin: Numbers,
    /// The row of cosines that each row of the input has, if it isn't its own.
    positions: Option<Numbers>,
    rotary_dim: usize,
    pairing: Pairing,
    output: Numbers,
    tolerance: Tolerance,
    /// Whether the input had three dimensions.
    flat: bool,
}

impl Case {
    pub fn read(value: &Value) -> Result<Self> {
        let (attributes, inputs) = (&value["attributes"], &value["inputs"]);
        let input = |name: &str| Numbers::read(&inputs[name]).with_context(|| name.to_owned());
        let number = |name: &str| attributes[name].as_u64().unwrap_or(0) as usize;
        let heads = Some(number("num_heads")).filter(|&heads| heads > 0);
        let (given, positions) = (input("input")?, &inputs["position_ids"]);
        let (flat, dtype) = (given.dims.len() == 3, given.storage()?);
        let rows = given.by_heads(heads)?;
        let rotary_dim = Some(number("rotary_embedding_dim")).filter(|&dim| dim > 0);
        Ok(Self {
            rotary_dim: rotary_dim.unwrap_or(sizes(&rows)[3]),
            input: rows,
            cos: input("cos_cache")?,
            sin: input("sin_cache")?,
            positions: (!positions.is_null()).then(|| Numbers::read(positions)).transpose()?,
            pairing: if number("interleaved") == 1 { Pairing::Interleaved } else { Pairing::Half },
            output: Numbers::read(&value["outputs"]["output"]).context("output")?,
            tolerance: Tolerance::read(value, dtype)?,
            flat,
        })
    }

    /// Computes the case and compares it; the largest error.
    pub fn run(&self, backend: &Backend) -> Result<f64> {
        let [batch, heads, rows, dim] = sizes(&self.input);
        let pairs = self.rotary_dim / 2;
        let mut turned = self.input.data.clone();
        for (entry, row) in (0..batch).flat_map(|entry| (0..rows).map(move |row| (entry, row))) {
            let own = entry * rows + row;
            let from = self.positions.as_ref().map_or(own, |positions| positions.data[own] as usize);
            let table =
                |numbers: &Numbers| numbers.data.get(from * pairs..(from + 1) * pairs).map(<[f32]>::to_vec);
            let (cos, sin) = table(&self.cos).zip(table(&self.sin)).context("a position past the tables")?;
            let at = |head: usize| ((entry * heads + head) * rows + row) * dim;
            // `[heads, channels]` of this row.
            let before: Vec<f32> =
                (0..heads).flat_map(|head| self.input.data[at(head)..][..dim].to_vec()).collect();
            let angles: Vec<f64> =
                cos.iter().zip(&sin).map(|(&c, &s)| f64::from(s).atan2(c.into())).collect();
            for pair in 0..pairs {
                let factor = f64::from(cos[pair]).hypot(sin[pair].into());
                let after = self.rotated(backend, &before, dim, &angles, factor)?;
                let channels = match self.pairing {
                    Pairing::Interleaved => [2 * pair, 2 * pair + 1],
                    _ => [pair, pair + pairs],
                };
                for (head, channel) in (0..heads).flat_map(|head| channels.map(|channel| (head, channel))) {
                    turned[at(head) + channel] = after[head * dim + channel];
                }
            }
        }
        let got = if self.flat { flat(&turned, [batch, heads, rows, dim]) } else { turned };
        self.tolerance.compare(&got, &self.output.data)
    }

    /// The row of every head, turned by these angles and grown by this factor.
    fn rotated(
        &self,
        backend: &Backend,
        heads: &[f32],
        dim: usize,
        angles: &[f64],
        factor: f64,
    ) -> Result<Vec<f32>> {
        let rope = |dim: usize, pairing: Pairing, angles: &[f64]| {
            let rope = Rope::new(dim, 1e4, pairing)?.with_rotary_dim(2 * angles.len())?;
            rope.with_frequencies(angles)?.with_temperature(factor)
        };
        let own = rope(dim, self.pairing, angles)?;
        let Backend::Gpu(context) = backend else {
            // Rows are turned by the same code wherever the attention is computed on the host.
            let mut rows = heads.to_vec();
            own.rotate_at(&mut rows, &vec![1; heads.len() / dim])?;
            return Ok(rows);
        };
        // The kernel wants pairs of halves eight channels at a time: pairs that turn by nothing,
        // and channels that are nothing, fill them up.
        let filled = if own.is_quad_aligned() { angles.len() } else { angles.len().next_multiple_of(4) };
        let pairs = angles.len();
        let more = filled - pairs;
        ensure!(more == 0 || self.pairing == Pairing::Half, "pairs of neighbours that fill no quad");
        let mut padded = Vec::new();
        for row in heads.chunks_exact(dim) {
            padded.extend_from_slice(&row[..pairs]);
            padded.extend(std::iter::repeat_n(0.0, more));
            padded.extend_from_slice(&row[pairs..2 * pairs]);
            padded.extend(std::iter::repeat_n(0.0, more));
            padded.extend_from_slice(&row[2 * pairs..]);
        }
        let wide = dim + 2 * more;
        let layout = Layout::heads_first(1, heads.len() / dim, 1, wide)?;
        let tensor = Tensor::upload(context, DType::F32, layout, &padded)?;
        let angles: Vec<f64> = angles.iter().copied().chain(std::iter::repeat_n(0.0, more)).collect();
        let plan = rope(wide, self.pairing, &angles)?.plan_rotation(context, DType::F32, 2)?;
        let bound = plan.bind(tensor.view())?;
        let mut encoder = context.device().create_command_encoder(&Default::default());
        plan.encode(&mut encoder, &bound, &[Rows::new(0, 0..1).at_position(1)])?;
        context.queue().submit([encoder.finish()]);
        let turned = tensor.read_blocking(context)?;
        let kept = turned
            .chunks_exact(wide)
            .flat_map(|row| [&row[..pairs], &row[filled..filled + pairs], &row[2 * filled..]].concat());
        Ok(kept.collect())
    }
}
