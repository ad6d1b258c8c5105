//! The numbers of a case, and how near others must be to them.

use anyhow::{Context as _, Result, bail, ensure};
use prflash::DType;
use serde_json::Value;

/// Numbers in the order of their dimensions.
#[derive(Clone, Debug)]
pub struct Numbers {
    pub dims: Vec<usize>,
    pub dtype: String,
    pub data: Vec<f32>,
}

impl Numbers {
    pub fn read(value: &Value) -> Result<Self> {
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

    /// The storage type of the library that has such numbers.
    pub fn storage(&self) -> Result<DType> {
        Ok(match self.dtype.as_str() {
            "float32" => DType::F32,
            "float16" => DType::F16,
            "bfloat16" => DType::Bf16,
            other => bail!("inputs of type {other}"),
        })
    }

    /// As `[batch, heads, rows, channels]`: three dimensions have all heads in the last one.
    pub fn by_heads(&self, heads: Option<usize>) -> Result<Self> {
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
    pub fn behind(&self, before: &Self) -> Self {
        let ([batch, heads, rows, dim], past) = (sizes(self), before.dims[2]);
        let mut data = Vec::with_capacity(self.data.len() + before.data.len());
        for head in 0..batch * heads {
            data.extend_from_slice(&before.data[head * past * dim..][..past * dim]);
            data.extend_from_slice(&self.data[head * rows * dim..][..rows * dim]);
        }
        Self { dims: vec![batch, heads, past + rows, dim], data, dtype: self.dtype.clone() }
    }

    /// One batch entry's first rows from `first` on, with channels of 0 up to whole quads.
    pub fn rows(&self, entry: usize, rows: std::ops::Range<usize>) -> (Vec<f32>, usize) {
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

/// The four dimensions.
pub fn sizes(numbers: &Numbers) -> [usize; 4] {
    [0, 1, 2, 3].map(|axis| numbers.dims.get(axis).copied().unwrap_or(1))
}

/// Every place of three dimensions, in order.
pub fn each([a, b, c]: [usize; 3]) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).map(move |k| (i, j, k))))
}

/// Heads side by side in each row.
pub fn flat(y: &[f32], [batch, heads, rows, dim]: [usize; 4]) -> Vec<f32> {
    let places = each([batch, rows, heads]);
    places
        .flat_map(|(entry, row, head)| y[((entry * heads + head) * rows + row) * dim..][..dim].to_vec())
        .collect()
}

/// How near a case wants its outputs.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    relative: f64,
    absolute: f64,
    dtype: DType,
}

impl Tolerance {
    /// That of a case whose numbers are of this type.
    pub fn read(case: &Value, dtype: DType) -> Result<Self> {
        let number = |name: &str| case[name].as_f64().with_context(|| format!("no {name}"));
        Ok(Self { relative: number("rtol")?, absolute: number("atol")?, dtype })
    }

    /// The largest error, if all are within.
    pub fn compare(&self, got: &[f32], want: &[f32]) -> Result<f64> {
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
            let close = error <= self.absolute + self.relative * want.abs() + rounding;
            ensure!(close, "number {index} is {got}, expected {want}");
            largest = largest.max(error);
        }
        Ok(largest)
    }
}
