//! The cases of ONNX's `Attention` operator (opsets 23 to 25), computed by prflash and compared
//! with what ONNX's reference says of them.
//!
//! `scripts/onnx-cases` takes them from the package `onnx` and runs this. A case passes where every
//! output is within the case's own tolerance. What the operator calls scores (`qk_matmul_output`)
//! is read out through the library, too: weights as the output over values that are unit vectors,
//! and scores as the log-sum-exp of single keys.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::Parser;
use prflash::attention::{Mask, Sequence};
use prflash::native::{HostView, HostViewMut, NativeOperands, NativeOptions, bf16, f16};
use prflash::{
    Attention, Call, ContextOptions, DType, Layout, Operands, Shape, TableBuffer, Tables, Tensor, reference,
};
use serde_json::{Value, json};
use testkit::backend::{Backend, Computing};
use testkit::example::{self, Common};

/// Runs the cases of ONNX's Attention operator that scripts/onnx-cases has written to a folder.
#[derive(Parser)]
struct Arguments {
    /// The folder with a JSON file for each case.
    #[arg(default_value = "target/onnx-cases/attention")]
    cases: PathBuf,
    #[command(flatten)]
    computing: Computing,
    #[command(flatten)]
    common: Common,
}

fn main() -> Result<()> {
    let (arguments, _) = example::parse::<Arguments>();
    let backend = arguments.computing.open(ContextOptions::new())?;
    let mut files: Vec<PathBuf> = std::fs::read_dir(&arguments.cases)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .with_context(|| format!("{}: run scripts/onnx-cases first", arguments.cases.display()))?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    ensure!(!files.is_empty(), "{}: no cases; run scripts/onnx-cases first", arguments.cases.display());
    if arguments.common.quick {
        files.truncate(8);
    }
    let (mut passed, mut largest, mut failures) = (0, 0.0_f64, Vec::new());
    for file in &files {
        let case = Case::read(file)?;
        match case.run(&backend) {
            Ok(error) => {
                passed += 1;
                largest = if case.dtype == DType::F32 { largest.max(error) } else { largest };
            }
            Err(error) => failures.push(format!("{}: {error:#}", case.name)),
        }
    }
    let (count, failed) = (files.len(), failures.len());
    if arguments.common.json {
        let fields =
            json!({ "cases": count, "passed": passed, "largest_error_f32": largest, "failures": failures });
        println!("{}", backend.object("onnx_cases", &[], fields)?);
    } else {
        println!("{backend}\n");
        failures.iter().for_each(|failure| println!("FAILED {failure}"));
        println!("{passed} of {count} cases passed; of f32 the largest error is {largest:.1e}");
    }
    ensure!(failed == 0, "{failed} of {count} cases failed");
    Ok(())
}

/// Numbers in the order of their dimensions.
#[derive(Clone, Debug)]
struct Numbers {
    dims: Vec<usize>,
    dtype: String,
    data: Vec<f32>,
}

impl Numbers {
    fn read(value: &Value) -> Result<Self> {
        let number = |value: &Value| match value {
            // What JSON has no number for.
            Value::String(name) => Ok(name.parse::<f32>()?),
            _ => Ok(value.as_f64().context("not a number")? as f32),
        };
        let list = |name: &str| value[name].as_array().with_context(|| format!("no {name}"));
        let size = |value: &Value| Ok(value.as_u64().context("not a size")? as usize);
        let dims = list("dims")?.iter().map(size).collect::<Result<Vec<_>>>()?;
        let data = list("data")?.iter().map(number).collect::<Result<Vec<_>>>()?;
        let dtype = value["dtype"].as_str().context("no dtype")?.to_owned();
        ensure!(data.len() == dims.iter().product::<usize>(), "{} numbers for {dims:?}", data.len());
        Ok(Self { dims, dtype, data })
    }

    /// As `[batch, heads, rows, channels]`: three dimensions have all heads in the last one.
    fn by_heads(&self, heads: Option<usize>) -> Result<Self> {
        let (&[batch, rows, all], Some(heads)) = (&self.dims[..], heads) else {
            ensure!(self.dims.len() == 4, "expected 4 dimensions, or 3 and heads, got {:?}", self.dims);
            return Ok(self.clone());
        };
        let dim = all / heads;
        let mut data = Vec::with_capacity(self.data.len());
        for (entry, head, row) in each([batch, heads, rows]) {
            data.extend_from_slice(&self.data[(entry * rows + row) * all + head * dim..][..dim]);
        }
        Ok(Self { dims: vec![batch, heads, rows, dim], data, dtype: self.dtype.clone() })
    }

    /// With the rows of `before` in front.
    fn behind(&self, before: &Self) -> Self {
        let ([batch, heads, rows, dim], past) = (sizes(self), before.dims[2]);
        let mut data = Vec::with_capacity(self.data.len() + before.data.len());
        for head in 0..batch * heads {
            data.extend_from_slice(&before.data[head * past * dim..][..past * dim]);
            data.extend_from_slice(&self.data[head * rows * dim..][..rows * dim]);
        }
        Self { dims: vec![batch, heads, past + rows, dim], data, dtype: self.dtype.clone() }
    }

    /// One batch entry's first rows from `first` on, with channels of 0 up to whole quads.
    fn rows(&self, entry: usize, rows: std::ops::Range<usize>) -> (Vec<f32>, usize) {
        let [_, heads, all, dim] = sizes(self);
        let padded = dim.next_multiple_of(4);
        let mut data = Vec::new();
        for head in 0..heads {
            for row in rows.clone() {
                data.extend_from_slice(&self.data[((entry * heads + head) * all + row) * dim..][..dim]);
                data.extend(std::iter::repeat_n(0.0, padded - dim));
            }
        }
        (data, padded)
    }
}

fn sizes(numbers: &Numbers) -> [usize; 4] {
    [0, 1, 2, 3].map(|axis| numbers.dims.get(axis).copied().unwrap_or(1))
}

fn each([a, b, c]: [usize; 3]) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).map(move |k| (i, j, k))))
}

/// One case: the operator's inputs and attributes, and what it should give.
struct Case {
    name: String,
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
    rtol: f64,
    atol: f64,
    /// Whether the operands had three dimensions.
    flat: bool,
}

/// One batch entry as a problem of the library.
struct Entry {
    attention: Attention,
    shape: Shape,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    mask: Option<Mask>,
}

impl Case {
    fn read(file: &Path) -> Result<Self> {
        let read = || -> Result<Self> {
            let value: Value = serde_json::from_str(&std::fs::read_to_string(file)?)?;
            let attributes = value["attributes"].clone();
            let input = |name: &str| match &value["inputs"][name] {
                Value::Null => Ok(None),
                numbers => Numbers::read(numbers).with_context(|| name.to_owned()).map(Some),
            };
            let needed = |name: &str| input(name)?.ok_or_else(|| anyhow!("no {name}"));
            let heads = |name: &str| attributes[name].as_u64().map(|heads| heads as usize);
            let (q, k, v) = (needed("Q")?, needed("K")?, needed("V")?);
            let flat = q.dims.len() == 3;
            let dtype = match q.dtype.as_str() {
                "float32" => DType::F32,
                "float16" => DType::F16,
                "bfloat16" => DType::Bf16,
                other => bail!("inputs of type {other}"),
            };
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
            let tolerance = |name: &str| value[name].as_f64().with_context(|| format!("no {name}"));
            Ok(Self {
                name: value["name"].as_str().context("no name")?.to_owned(),
                dtype,
                q: q.by_heads(heads("q_num_heads"))?,
                k,
                v,
                past,
                has_past,
                mask: input("attn_mask")?,
                lengths,
                outputs: outputs.collect::<Result<_>>()?,
                rtol: tolerance("rtol")?,
                atol: tolerance("atol")?,
                attributes,
                flat,
            })
        };
        read().with_context(|| format!("reading {}", file.display()))
    }

    fn attribute(&self, name: &str) -> Option<f64> {
        self.attributes[name].as_f64()
    }

    /// Computes the case and compares every output; the largest error of Y.
    fn run(&self, backend: &Backend) -> Result<f64> {
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
            let error = self.compare(&got, &want.data).with_context(|| name.clone())?;
            largest = if name == "Y" { error } else { largest };
        }
        Ok(largest)
    }

    fn compare(&self, got: &[f32], want: &[f32]) -> Result<f64> {
        ensure!(got.len() == want.len(), "{} numbers for {}", got.len(), want.len());
        let mut largest = 0.0_f64;
        for (index, (&got, &want)) in got.iter().zip(want).enumerate() {
            let (got, want) = (f64::from(got), f64::from(want));
            // The results of 16-bit types are themselves rounded.
            let rounding = match self.dtype {
                DType::F32 => 0.0,
                dtype => 2.0 * dtype.unit_roundoff() * want.abs(),
            };
            let same = got == want || got.is_nan() && want.is_nan();
            let error = if same { 0.0 } else { (got - want).abs() };
            let close = error <= self.atol + self.rtol * want.abs() + rounding;
            ensure!(close, "number {index} is {got}, expected {want}");
            largest = largest.max(error);
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

/// Heads side by side in each row.
fn flat(y: &[f32], [batch, heads, rows, dim]: [usize; 4]) -> Vec<f32> {
    let places = each([batch, rows, heads]);
    places
        .flat_map(|(entry, row, head)| y[((entry * heads + head) * rows + row) * dim..][..dim].to_vec())
        .collect()
}

impl Entry {
    /// Output and log-sum-exp.
    fn attend(&self, backend: &Backend) -> Result<(Vec<f32>, Vec<f32>)> {
        let attention = self.attention.clone().with_lse(true);
        let (shape, dtype) = (&self.shape, attention.storage());
        let tables = self.mask.iter().fold(Tables::new(), Tables::with_mask);
        let layouts = [
            Layout::heads_first(1, shape.heads(), shape.q_len(), shape.head_dim())?,
            Layout::heads_first(1, shape.kv_heads(), shape.kv_len(), shape.head_dim())?,
            Layout::heads_first(1, shape.kv_heads(), shape.kv_len(), shape.value_dim())?,
        ];
        let output = Layout::heads_first(1, shape.heads(), shape.q_len(), shape.value_dim())?;
        let rows = Layout::rows(1, shape.heads(), shape.q_len())?;
        match backend {
            Backend::Gpu(context) => {
                let plan = attention.plan(context, shape)?;
                let tensor = |layout, values: &[f32]| Tensor::upload(context, dtype, layout, values);
                let (q, k) = (tensor(layouts[0], &self.q)?, tensor(layouts[1], &self.k)?);
                let v = tensor(layouts[2], &self.v)?;
                let output = Tensor::zeros(context, attention.output(), output)?;
                let lse = Tensor::zeros(context, DType::F32, rows)?;
                let bound = plan.bind(&Operands {
                    q: q.view(),
                    k: k.view(),
                    v: v.view(),
                    output: output.view(),
                    lse: Some(lse.view()),
                })?;
                let tables = TableBuffer::new(context, &tables)?;
                let whole =
                    Sequence { queries: 0..shape.q_len(), keys: 0..shape.kv_len(), ..Sequence::default() };
                let sequences = [whole];
                plan.submit(&bound, &Call::sequences(&sequences).with_tables(&tables))?;
                Ok((output.read_blocking(context)?, lse.read_blocking(context)?))
            }
            Backend::Native => {
                let plan = attention.plan_native(shape, &NativeOptions::new())?;
                let [q, k, v] = [&self.q, &self.k, &self.v].map(|values| Stored::new(dtype, values));
                let mut stored = Stored::new(attention.output(), &vec![0.0; output.elements()]);
                let mut lse = vec![0.0; rows.elements()];
                let mut operands = NativeOperands {
                    q: q.view(layouts[0])?,
                    k: k.view(layouts[1])?,
                    v: v.view(layouts[2])?,
                    output: stored.view_mut(output)?,
                    lse: Some(&mut lse),
                };
                plan.run(&mut operands, &tables)?;
                Ok((stored.to_f32(), lse))
            }
            Backend::Reference => {
                let exact = reference::attention(&attention, shape, &self.q, &self.k, &self.v, &tables)?;
                let numbers = |values: &[f64]| values.iter().map(|&x| x as f32).collect::<Vec<_>>();
                let output = exact.output.iter().map(|&x| attention.output().round(x as f32)).collect();
                Ok((output, numbers(&exact.lse)))
            }
        }
    }

    /// The scores, `[heads, q_len, kv_len]`: inner products (0), capped (1), with the mask (2), or
    /// weights (3).
    fn scores(&self, backend: &Backend, mode: u32) -> Result<Vec<f32>> {
        let (heads, kv_heads) = (self.shape.heads(), self.shape.kv_heads());
        let (q_len, kv_len) = (self.shape.q_len(), self.shape.kv_len());
        let mut scores = vec![0.0; heads * q_len * kv_len];
        if mode == 3 {
            // Values that are unit vectors make the weights the output.
            let dim = kv_len.next_multiple_of(4);
            let unit = |key: usize| (0..dim).map(move |channel| if channel == key { 1.0 } else { 0.0 });
            let v = (0..kv_heads).flat_map(|_| (0..kv_len).flat_map(unit)).collect();
            let weighed =
                self.with(self.attention.clone(), self.k.clone(), v, kv_len, dim, self.mask.clone())?;
            let (output, _) = weighed.attend(backend)?;
            for (head, row, key) in each([heads, q_len, kv_len]) {
                scores[(head * q_len + row) * kv_len + key] = output[(head * q_len + row) * dim + key];
            }
            return Ok(scores);
        }
        let mut attention = Attention::full().with_scale(self.attention.scale(self.shape.head_dim()))?;
        if let Some(cap) = self.attention.soft_cap().filter(|_| mode > 0) {
            attention = attention.with_soft_cap(cap)?;
        }
        let attention = attention.with_storage(self.attention.storage()).with_masks(mode == 2);
        let dim = self.shape.head_dim();
        for key in 0..kv_len {
            let k = (0..kv_heads).flat_map(|head| self.k[(head * kv_len + key) * dim..][..dim].to_vec());
            let v = vec![0.0; kv_heads * 4];
            let seen = |head: usize, query: usize| {
                let position = kv_len as i64 - q_len as i64 + query as i64;
                let visible = self.attention.visible(position, kv_len).contains(&key);
                let masked = self.mask.as_ref().map_or(0.0, |mask| mask.value(head, query, key));
                if visible { masked } else { f32::NEG_INFINITY }
            };
            let mask = (mode == 2)
                .then(|| {
                    let numbers: Vec<f32> =
                        each([heads, q_len, 1]).map(|(head, row, _)| seen(head, row)).collect();
                    Mask::additive([heads, q_len, 1], &numbers)
                })
                .transpose()?;
            let one = self.with(attention.clone(), k.collect(), v, 1, 4, mask)?;
            let (_, lse) = one.attend(backend)?;
            for (head, row, _) in each([heads, q_len, 1]) {
                scores[(head * q_len + row) * kv_len + key] = lse[head * q_len + row];
            }
        }
        Ok(scores)
    }

    /// The same queries over other keys and values.
    fn with(
        &self,
        attention: Attention,
        k: Vec<f32>,
        v: Vec<f32>,
        kv_len: usize,
        value_dim: usize,
        mask: Option<Mask>,
    ) -> Result<Self> {
        let shape = self.shape.with_kv_len(kv_len)?.with_value_dim(value_dim)?;
        Ok(Self { attention, shape, q: self.q.clone(), k, v, mask })
    }
}

/// Numbers in host memory as a type.
enum Stored {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl Stored {
    fn new(dtype: DType, values: &[f32]) -> Self {
        match dtype {
            DType::F16 => Self::F16(values.iter().map(|&x| f16::from_f32(x)).collect()),
            DType::Bf16 => Self::Bf16(values.iter().map(|&x| bf16::from_f32(x)).collect()),
            _ => Self::F32(values.to_vec()),
        }
    }

    fn view(&self, layout: Layout) -> prflash::Result<HostView<'_>> {
        match self {
            Self::F32(values) => HostView::new(&values[..], layout),
            Self::F16(values) => HostView::new(&values[..], layout),
            Self::Bf16(values) => HostView::new(&values[..], layout),
        }
    }

    fn view_mut(&mut self, layout: Layout) -> prflash::Result<HostViewMut<'_>> {
        match self {
            Self::F32(values) => HostViewMut::new(&mut values[..], layout),
            Self::F16(values) => HostViewMut::new(&mut values[..], layout),
            Self::Bf16(values) => HostViewMut::new(&mut values[..], layout),
        }
    }

    fn to_f32(&self) -> Vec<f32> {
        match self {
            Self::F32(values) => values.clone(),
            Self::F16(values) => values.iter().map(|x| x.to_f32()).collect(),
            Self::Bf16(values) => values.iter().map(|x| x.to_f32()).collect(),
        }
    }
}
