//! Cases of the Attention operator.
//!
//! What the operator calls scores (`qk_matmul_output`) is read out through the library, too:
//! weights as the output over values that are unit vectors, and scores as the log-sum-exp of single
//! keys.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow, bail};
use prflash::attention::Mask;
use prflash::{Attention, DType, Shape};
use serde_json::Value;
use testkit::backend::Backend;

use crate::numbers::{Numbers, Tolerance, each, flat, sizes};
use crate::problem::Entry;

/// One case: the operator's inputs and attributes, and what it should give.
pub struct Case {
    dtype: DType,
    q: Numbers,
    /// The past in front.
    k: Numbers,
    v: Numbers,
    past: usize,
    has_past: bool,
    mask: Option<Numbers>,
    /// Keys of each batch entry that are no padding.
    lengths: Option<Vec<usize>>,
    attributes: Value,
    outputs: BTreeMap<String, Numbers>,
    tolerance: Tolerance,
    /// Whether the operands had three dimensions.
    flat: bool,
}

impl Case {
    pub fn read(value: &Value) -> Result<Self> {
        let attributes = value["attributes"].clone();
        let input = |name: &str| match &value["inputs"][name] {
            Value::Null => Ok(None),
            numbers => Numbers::read(numbers).with_context(|| name.to_owned()).map(Some),
        };
        let needed = |name: &str| input(name)?.ok_or_else(|| anyhow!("no {name}"));
        let heads = |name: &str| attributes[name].as_u64().map(|heads| heads as usize);
        let (q, k, v) = (needed("Q")?, needed("K")?, needed("V")?);
        let flat = q.dims.len() == 3;
        let dtype = q.storage()?;
        let (mut k, mut v) = (k.by_heads(heads("kv_num_heads"))?, v.by_heads(heads("kv_num_heads"))?);
        let (past_k, past_v) = (input("past_key")?, input("past_value")?);
        let past = past_k.as_ref().map_or(0, |past| past.dims[2]);
        let has_past = past_k.is_some();
        if let (Some(past_k), Some(past_v)) = (past_k, past_v) {
            (k, v) = (k.behind(&past_k), v.behind(&past_v));
        }
        let lengths = input("nonpad_kv_seqlen")?;
        let lengths = lengths.map(|lengths| lengths.data.iter().map(|&len| len as usize).collect());
        let outputs = value["outputs"].as_object().context("no outputs")?;
        let outputs = outputs.iter().map(|(name, numbers)| Ok((name.clone(), Numbers::read(numbers)?)));
        Ok(Self {
            dtype,
            q: q.by_heads(heads("q_num_heads"))?,
            k,
            v,
            past,
            has_past,
            mask: input("attn_mask")?,
            lengths,
            outputs: outputs.collect::<Result<_>>()?,
            tolerance: Tolerance::read(value, dtype)?,
            attributes,
            flat,
        })
    }

    fn attribute(&self, name: &str) -> Option<f64> {
        self.attributes[name].as_f64()
    }

    /// Computes the case and compares every output; the largest error of Y, if it is f32.
    pub fn run(&self, backend: &Backend) -> Result<f64> {
        let ([batch, heads, q_len, _], [_, _, kv_len, dim]) = (sizes(&self.q), sizes(&self.v));
        let mut y = vec![0.0; batch * heads * q_len * dim];
        let mut scores = vec![0.0; batch * heads * q_len * kv_len];
        let mode = self.outputs.get("qk_matmul_output").map(|_| self.attribute("qk_matmul_output_mode"));
        for batch_entry in 0..batch {
            let entry = self.entry(batch_entry)?;
            let (output, _) = entry.attend(backend)?;
            let padded = entry.shape.value_dim();
            for (head, row, channel) in each([heads, q_len, dim]) {
                let at = ((batch_entry * heads + head) * q_len + row) * dim + channel;
                y[at] = output[(head * q_len + row) * padded + channel];
            }
            if let Some(mode) = mode {
                let of_entry = entry.scores(backend, mode.unwrap_or(0.0) as u32)?;
                let keys = entry.shape.kv_len();
                for (head, row, key) in each([heads, q_len, keys]) {
                    scores[((batch_entry * heads + head) * q_len + row) * kv_len + key] =
                        of_entry[(head * q_len + row) * keys + key];
                }
            }
        }
        let mut largest = 0.0;
        for (name, want) in &self.outputs {
            let got = match name.as_str() {
                "Y" if self.flat => flat(&y, [batch, heads, q_len, dim]),
                "Y" => y.clone(),
                "present_key" => self.k.data.clone(),
                "present_value" => self.v.data.clone(),
                "qk_matmul_output" => scores.clone(),
                other => bail!("an output {other}"),
            };
            let error = self.tolerance.compare(&got, &want.data).with_context(|| name.clone())?;
            largest = if name == "Y" && self.dtype == DType::F32 { error } else { largest };
        }
        Ok(largest)
    }

    /// One batch entry. What causality, windows and padding say is left to the library's own where
    /// it has the same, and else is in the mask.
    fn entry(&self, entry: usize) -> Result<Entry> {
        let ([_, heads, q_len, dim], [_, kv_heads, all_keys, _]) = (sizes(&self.q), sizes(&self.k));
        let kv_len = self.lengths.as_ref().map_or(all_keys, |lengths| lengths[entry].min(all_keys));
        let causal = self.attribute("is_causal") == Some(1.0);
        let window = |name: &str| self.attribute(name).filter(|&tokens| tokens >= 0.0).map(|x| x as i64);
        let (left, right) = (window("left_window_size"), window("right_window_size"));
        // Where the first query is among the keys.
        let first = match &self.lengths {
            Some(lengths) if !self.has_past => lengths[entry] as i64 - q_len as i64,
            _ => self.past as i64,
        };
        let own = first == kv_len as i64 - q_len as i64 && right.is_none();
        let mut attention = if own && causal { Attention::causal() } else { Attention::full() };
        if let (true, true, Some(left)) = (own, causal, left) {
            attention = attention.with_window(left as usize + 1)?;
        }
        let scale = self.attribute("scale").unwrap_or(1.0 / (dim as f64).sqrt());
        attention = attention.with_scale(scale as f32)?;
        if let Some(cap) = self.attribute("softcap").filter(|&cap| cap > 0.0) {
            attention = attention.with_soft_cap(cap as f32)?;
        }
        let said = own && (causal || left.is_none());
        let seen = |query: usize, key: usize| {
            let lag = first + query as i64 - key as i64;
            let ahead = !causal || lag >= 0;
            ahead && left.is_none_or(|left| lag <= left) && right.is_none_or(|right| -lag <= right)
        };
        let restricted = causal || left.is_some() || right.is_some();
        let mask = match &self.mask {
            Some(mask) => Some(self.joined(mask, entry, kv_len, |query, key| said || seen(query, key))?),
            None if restricted && !said => {
                let pairs = (0..q_len).flat_map(|query| (0..kv_len).map(move |key| (query, key)));
                let bits: Vec<bool> = pairs.map(|(query, key)| seen(query, key)).collect();
                Some(Mask::boolean([1, q_len, kv_len], &bits)?)
            }
            None => None,
        };
        let (q, padded) = self.q.rows(entry, 0..q_len);
        let ((k, _), (v, value_dim)) = (self.k.rows(entry, 0..kv_len), self.v.rows(entry, 0..kv_len));
        let shape =
            Shape::new(heads, kv_heads, q_len, padded)?.with_kv_len(kv_len)?.with_value_dim(value_dim)?;
        let attention = attention.with_storage(self.dtype).with_output(self.dtype).with_masks(mask.is_some());
        Ok(Entry { attention, shape, q, k, v, mask })
    }

    /// The operator's mask of one batch entry, cut or filled up to its keys, with what it doesn't
    /// say.
    fn joined(
        &self,
        mask: &Numbers,
        entry: usize,
        kv_len: usize,
        seen: impl Fn(usize, usize) -> bool,
    ) -> Result<Mask> {
        let [_, heads, q_len, _] = sizes(&self.q);
        // Dimensions are aligned at the last.
        let mut dims = vec![1; 4 - mask.dims.len()];
        dims.extend(&mask.dims);
        let at = |axis: usize, index: usize| if dims[axis] == 1 { 0 } else { index };
        let own_heads = if dims[1] == 1 { 1 } else { heads };
        let boolean = mask.dtype == "bool";
        let number = |head: usize, query: usize, key: usize| {
            if key >= dims[3] || !seen(query, key) {
                return f32::NEG_INFINITY;
            }
            let row = (at(0, entry) * dims[1] + at(1, head)) * dims[2] + at(2, query);
            let number = mask.data[row * dims[3] + key];
            match (boolean, number == 0.0) {
                (true, true) => f32::NEG_INFINITY,
                (true, false) => 0.0,
                (false, _) => number,
            }
        };
        let numbers: Vec<f32> = each([own_heads, q_len, kv_len]).map(|(h, i, j)| number(h, i, j)).collect();
        let sizes = [own_heads, q_len, kv_len];
        Ok(match (boolean, mask.dtype.as_str()) {
            (true, _) => Mask::boolean(sizes, &numbers.iter().map(|&x| x == 0.0).collect::<Vec<_>>())?,
            (false, "float16") => Mask::additive_f16(sizes, &numbers)?,
            _ => Mask::additive(sizes, &numbers)?,
        })
    }
}
