//! One batch entry of a case as a problem of the library, computed by each of its backends.

use anyhow::Result;
use prflash::attention::{Mask, Sequence};
use prflash::native::{HostView, HostViewMut, NativeOperands, NativeOptions, bf16, f16};
use prflash::{Attention, Call, DType, Layout, Operands, Shape, TableBuffer, Tables, Tensor, reference};
use testkit::backend::Backend;

use crate::numbers::each;

/// One batch entry as a problem of the library.
pub struct Entry {
    pub attention: Attention,
    pub shape: Shape,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub mask: Option<Mask>,
}

impl Entry {
    /// Output and log-sum-exp.
    pub fn attend(&self, backend: &Backend) -> Result<(Vec<f32>, Vec<f32>)> {
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
    pub fn scores(&self, backend: &Backend, mode: u32) -> Result<Vec<f32>> {
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
