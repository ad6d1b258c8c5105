//! Tensors on the GPU: views over anybody's buffers, and owned ones with upload and readback.

use std::ops::Range;

use super::context::Context;
use crate::error::{Error, Result, ensure};
use crate::layout::{DType, Layout};

/// A typed, strided view over a wgpu buffer: yours or ours. It copies nothing and keeps the buffer alive.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorView {
    buffer: wgpu::Buffer,
    dtype: DType,
    layout: Layout,
}

impl TensorView {
    /// A view of `buffer` as numbers of type `dtype` in `layout`, whose offset counts elements from the buffer's start.
    ///
    /// # Errors
    /// Invalid argument (`buffer`) if the buffer is too short or lacks the usage `STORAGE`.
    pub fn new(buffer: &wgpu::Buffer, dtype: DType, layout: Layout) -> Result<Self> {
        let (has, needs) = (buffer.size(), (layout.extent() as u64) * dtype.size() as u64);
        ensure!(has >= needs, "buffer", "expected at least {needs} bytes for {layout:?}, got {has}");
        ensure!(
            buffer.usage().contains(wgpu::BufferUsages::STORAGE),
            "buffer",
            "expected the usage STORAGE, got {:?}",
            buffer.usage()
        );
        Ok(Self { buffer: buffer.clone(), dtype, layout })
    }

    /// The buffer.
    pub fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }

    /// The storage type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where the elements lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Some batch entries and heads of the tensor.
    pub(crate) fn part(&self, batches: Range<usize>, heads: Range<usize>) -> Self {
        Self { layout: self.layout.part(batches, heads), ..self.clone() }
    }

    /// [`Layout::grouped`] of this tensor.
    pub(crate) fn grouped(&self, batch: usize, per_group: usize, first: usize, heads: usize) -> Self {
        Self { layout: self.layout.grouped(batch, per_group, first, heads), ..self.clone() }
    }

    /// Reads the tensor back as contiguous `[batch, heads, len, dim]` f32 values, once all work submitted so far is done. Native
    /// backends wait inside.
    ///
    /// # Errors
    /// Invalid argument (`buffer`) if the buffer lacks the usage `COPY_SRC`; device lost; out of memory.
    pub async fn read(&self, context: &Context) -> Result<Vec<f32>> {
        ensure!(
            self.buffer.usage().contains(wgpu::BufferUsages::COPY_SRC),
            "buffer",
            "reading back needs the usage COPY_SRC, got {:?}",
            self.buffer.usage()
        );
        if self.layout.elements() == 0 {
            return Ok(Vec::new());
        }
        let size = self.dtype.size();
        // Only the part in use, in whole words.
        let from = self.layout.offset() * size / 4 * 4;
        let to = (self.layout.extent() * size).next_multiple_of(4);
        let bytes = context.read_buffer(&self.buffer, from as u64, (to - from) as u64).await?;
        let values = self.dtype.decode(&bytes);
        let shift = self.layout.offset() - from / size;
        let layout = Layout::with_offset(&self.layout, shift);
        layout.gather(&values)
    }

    /// [`read`](TensorView::read), blocking.
    ///
    /// # Errors
    /// As [`read`](TensorView::read).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read_blocking(&self, context: &Context) -> Result<Vec<f32>> {
        pollster::block_on(self.read(context))
    }
}

/// A tensor in a buffer of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    view: TensorView,
}

impl Tensor {
    /// A tensor of zeros.
    ///
    /// # Errors
    /// Too large for a buffer of this device; out of memory; device lost.
    pub fn zeros(context: &Context, dtype: DType, layout: Layout) -> Result<Self> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let size = (layout.extent() as u64) * dtype.size() as u64;
        let buffer = context.create_buffer("prflash tensor", size, usage)?;
        Ok(Self { view: TensorView { buffer, dtype, layout } })
    }

    /// Uploads contiguous `[batch, heads, len, dim]` values, rounded to `dtype`, into the given layout (gaps become zeros).
    ///
    /// # Errors
    /// Invalid argument (`source`) if the number of values is wrong; and those of [`Tensor::zeros`].
    pub fn upload(context: &Context, dtype: DType, layout: Layout, values: &[f32]) -> Result<Self> {
        layout.check_source(values.len())?;
        // The device may refuse the size, before this machine allocates it.
        let tensor = Self::zeros(context, dtype, layout)?;
        let mut flat = vec![0.0; layout.extent()];
        layout.scatter(values, &mut flat)?;
        let bytes = dtype.encode(&flat);
        context.capture(|| context.queue().write_buffer(&tensor.view.buffer, 0, &bytes))?;
        Ok(tensor)
    }

    /// Uploads an array of shape `[batch, heads, len, dim]`, whatever its strides, into contiguous heads-first storage.
    ///
    /// # Errors
    /// As [`Tensor::upload`].
    #[cfg(feature = "ndarray")]
    pub fn upload_array(
        context: &Context,
        dtype: DType,
        array: ndarray::ArrayView4<'_, f32>,
    ) -> Result<Self> {
        let (batch, heads, len, dim) = array.dim();
        let values: Vec<f32> = array.iter().copied().collect();
        Self::upload(context, dtype, Layout::heads_first(batch, heads, len, dim)?, &values)
    }

    /// The tensor as a view.
    pub fn view(&self) -> &TensorView {
        &self.view
    }

    /// [`TensorView::read`] of the whole tensor.
    ///
    /// # Errors
    /// As [`TensorView::read`].
    pub async fn read(&self, context: &Context) -> Result<Vec<f32>> {
        self.view.read(context).await
    }

    /// [`TensorView::read_blocking`] of the whole tensor.
    ///
    /// # Errors
    /// As [`TensorView::read`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read_blocking(&self, context: &Context) -> Result<Vec<f32>> {
        self.view.read_blocking(context)
    }

    /// Reads the tensor back as an array of shape `[batch, heads, len, dim]`.
    ///
    /// # Errors
    /// As [`TensorView::read`].
    #[cfg(feature = "ndarray")]
    pub async fn read_array(&self, context: &Context) -> Result<ndarray::Array4<f32>> {
        let values = self.read(context).await?;
        ndarray::Array4::from_shape_vec(self.view.layout.dims(), values)
            .map_err(|error| Error::validation(format!("readback: {error}")))
    }
}

impl AsRef<TensorView> for Tensor {
    fn as_ref(&self) -> &TensorView {
        &self.view
    }
}

impl AsRef<TensorView> for TensorView {
    fn as_ref(&self) -> &TensorView {
        self
    }
}

/// The part of a buffer that a kernel is bound to, and where in it the tensor starts.
#[derive(Clone, Debug)]
pub(crate) struct Binding {
    pub(crate) buffer: wgpu::Buffer,
    pub(crate) offset: u64,
    pub(crate) size: u64,
    /// In units of `granule` elements from the binding's start.
    pub(crate) base: u32,
}

impl Binding {
    /// `granule` is 4 for tensors that are loaded in quads, 1 for rows of single numbers. An empty tensor is bound to `empty`.
    pub(crate) fn new(
        argument: &'static str,
        view: &TensorView,
        granule: usize,
        context: &Context,
        empty: &wgpu::Buffer,
    ) -> Result<Self> {
        if view.layout.elements() == 0 {
            return Ok(Self { buffer: empty.clone(), offset: 0, size: empty.size(), base: 0 });
        }
        let size = view.dtype.size() as u64;
        let alignment = u64::from(context.device().limits().min_storage_buffer_offset_alignment);
        let start = view.layout.offset() as u64 * size;
        let offset = start / alignment * alignment;
        let bytes = (view.layout.extent() as u64 * size).next_multiple_of(4) - offset;
        let limit = context.capabilities().max_binding_bytes;
        if bytes > limit {
            return Err(Error::too_large(
                argument,
                format!("{bytes} bytes are past the {limit} that this device can bind at once"),
            ));
        }
        let base = ((start - offset) / (size * granule as u64)) as u32;
        Ok(Self { buffer: view.buffer.clone(), offset, size: bytes, base })
    }

    pub(crate) fn resource(&self) -> wgpu::BindingResource<'_> {
        wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: &self.buffer,
            offset: self.offset,
            size: std::num::NonZeroU64::new(self.size),
        })
    }
}
