//! Tensors on the GPU: views over anybody's buffers, and owned ones with upload and readback.

use std::ops::Range;

use super::context::Context;
use super::identity::DeviceId;
use crate::error::{Error, Result, ensure};
use crate::layout::{DType, Layout};
use crate::shape::Shape;

/// A typed, strided view over a wgpu buffer: yours or ours. It copies nothing, keeps the buffer
/// alive, and knows its device.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorView {
    device: DeviceId,
    buffer: wgpu::Buffer,
    dtype: DType,
    layout: Layout,
}

impl TensorView {
    /// A view of `buffer`, which is of the device of `context`, as numbers of type `dtype` in
    /// `layout`, whose offset counts elements from the buffer's start.
    ///
    /// # Errors
    /// Invalid argument (`buffer`) if the buffer is too short or lacks the usage `STORAGE`; other
    /// device (`buffer`) if it isn't of the context's. (A buffer that is mapped, or can be, doesn't
    /// tell whose it is.)
    pub fn new(context: &Context, buffer: &wgpu::Buffer, dtype: DType, layout: Layout) -> Result<Self> {
        let view = Self { device: context.device_id(), buffer: buffer.clone(), dtype, layout };
        view.check_size()?;
        ensure!(
            buffer.usage().contains(wgpu::BufferUsages::STORAGE),
            "buffer",
            "expected the usage STORAGE, got {:?}",
            buffer.usage()
        );
        context.check_buffer("buffer", buffer)?;
        Ok(view)
    }

    /// The same buffer and type in another layout.
    ///
    /// # Errors
    /// Invalid argument (`buffer`) if the buffer is too short.
    pub fn with_layout(&self, layout: Layout) -> Result<Self> {
        let view = Self { layout, ..self.clone() };
        view.check_size()?;
        Ok(view)
    }

    fn check_size(&self) -> Result<()> {
        let (has, layout) = (self.buffer.size(), &self.layout);
        let needs = (layout.extent() as u64) * self.dtype.size() as u64;
        ensure!(has >= needs, "buffer", "expected at least {needs} bytes for {layout:?}, got {has}");
        Ok(())
    }

    /// Replaces all elements by contiguous `[batch, heads, len, dim]` values, rounded to the
    /// storage type. Gaps of the layout keep their bytes. The values are there before any commands
    /// that are submitted later.
    ///
    /// # Errors
    /// Invalid argument: (`source`) another number of values; (`buffer`) that lacks the usage
    /// `COPY_DST`, is mapped or was destroyed, or whose rows aren't whole words of 4 bytes (only
    /// rows of a single 16-bit number may be so); other device (`buffer`); device lost; out of
    /// memory.
    pub fn write(&self, context: &Context, values: &[f32]) -> Result<()> {
        let [batch, _, len, _] = self.layout.dims();
        self.write_part(context, 0..batch, 0..len, values)
    }

    /// Replaces some rows of one batch entry, in all heads: `values` is contiguous `[heads, rows,
    /// dim]`. Otherwise as [`write`](TensorView::write).
    ///
    /// ```no_run
    /// # fn main() -> prflash::Result<()> {
    /// use prflash::{Context, DType, Layout, Tensor};
    /// let context = Context::new_blocking()?;
    /// // Keys of up to 4,096 tokens on 2 heads, of which one more comes at a time.
    /// let keys = Tensor::zeros(&context, DType::F16, Layout::heads_first(1, 2, 4096, 64)?)?;
    /// let token = vec![0.5; 2 * 64];
    /// keys.view().write_rows(&context, 0, 1000..1001, &token)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`write`](TensorView::write); invalid argument (`entry`, `rows`) for a batch entry or
    /// rows that the tensor doesn't have.
    pub fn write_rows(
        &self,
        context: &Context,
        entry: usize,
        rows: Range<usize>,
        values: &[f32],
    ) -> Result<()> {
        let [entries, _, len, _] = self.layout.dims();
        ensure!(entry < entries, "entry", "expected one below {entries}, got {entry}");
        ensure!(
            rows.start <= rows.end && rows.end <= len,
            "rows",
            "expected rows within 0..{len}, got {rows:?}"
        );
        self.write_part(context, entry..entry + 1, rows, values)
    }

    fn write_part(
        &self,
        context: &Context,
        entries: Range<usize>,
        rows: Range<usize>,
        values: &[f32],
    ) -> Result<()> {
        ensure!(
            self.buffer.usage().contains(wgpu::BufferUsages::COPY_DST),
            "buffer",
            "writing needs the usage COPY_DST, got {:?}",
            self.buffer.usage()
        );
        self.check("buffer", context)?;
        let [_, heads, _, dim] = self.layout.dims();
        let want = entries.len() * heads * rows.len() * dim;
        ensure!(values.len() == want, "source", "expected {want} values, got {}", values.len());
        let places = entries.flat_map(|entry| {
            let rows = rows.clone();
            (0..heads)
                .flat_map(move |head| rows.clone().map(move |row| self.layout.index(entry, head, row, 0)))
        });
        let mut rows: Vec<(usize, &[f32])> = places.zip(values.chunks_exact(dim)).collect();
        rows.sort_unstable_by_key(|&(at, _)| at);
        // Rows that lie behind each other are written at one go.
        let size = self.dtype.size();
        let mut runs: Vec<(usize, Vec<f32>)> = Vec::new();
        for (at, row) in rows {
            match runs.last_mut() {
                Some((start, run)) if *start + run.len() == at => run.extend_from_slice(row),
                _ => runs.push((at, row.to_vec())),
            }
        }
        for (at, run) in &runs {
            let whole = (at * size).is_multiple_of(4) && (run.len() * size).is_multiple_of(4);
            ensure!(whole, "buffer", "expected rows that are whole words of 4 bytes, got {:?}", self.layout);
        }
        context.capture(|| {
            for (at, run) in runs {
                context.queue().write_buffer(&self.buffer, (at * size) as u64, &self.dtype.encode(&run));
            }
        })?;
        context.check_alive()
    }

    /// Refuses to be used on another device than its own, or while its buffer can't be used.
    pub(crate) fn check(&self, argument: &'static str, context: &Context) -> Result<()> {
        context.check_device(argument, self.device)?;
        context.check_usable(argument, &self.buffer)
    }

    /// The buffer in which it lies.
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
    pub(crate) fn shard(&self, entries: Range<usize>, heads: Range<usize>) -> Self {
        Self { layout: self.layout.shard(entries, heads), ..self.clone() }
    }

    /// [`Layout::grouped`] of this tensor.
    pub(crate) fn grouped(&self, batch: usize, per_group: usize, first: usize, heads: usize) -> Self {
        Self { layout: self.layout.grouped(batch, per_group, first, heads), ..self.clone() }
    }

    /// Reads the tensor back as contiguous `[batch, heads, len, dim]` f32 values, once all work
    /// submitted so far is done. Native backends wait inside.
    ///
    /// # Errors
    /// Invalid argument (`buffer`) if the buffer lacks the usage `COPY_SRC`, is mapped or was
    /// destroyed, or ends within a word of 4 bytes that holds an element; other device (`buffer`);
    /// device lost; out of memory.
    pub async fn read(&self, context: &Context) -> Result<Vec<f32>> {
        ensure!(
            self.buffer.usage().contains(wgpu::BufferUsages::COPY_SRC),
            "buffer",
            "reading back needs the usage COPY_SRC, got {:?}",
            self.buffer.usage()
        );
        self.check("buffer", context)?;
        if self.layout.elements() == 0 {
            return Ok(Vec::new());
        }
        let size = self.dtype.size();
        // Only the part in use, in whole words: what is copied has to be.
        let from = self.layout.offset() * size / 4 * 4;
        let to = (self.layout.extent() * size).next_multiple_of(4);
        let has = self.buffer.size();
        ensure!(
            to as u64 <= has,
            "buffer",
            "reading back copies whole words of 4 bytes, up to byte {to}; the buffer ends at {has}"
        );
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
        Ok(Self { view: TensorView { device: context.device_id(), buffer, dtype, layout } })
    }

    /// Uploads contiguous `[batch, heads, len, dim]` values, rounded to `dtype`, into the given
    /// layout (gaps become zeros).
    ///
    /// # Errors
    /// Invalid argument (`source`) if the number of values is wrong; and those of
    /// [`Tensor::zeros`].
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

    /// Uploads queries, keys and values, contiguous `[batch, heads, len, dim]` each, into one
    /// buffer, as a fused projection leaves them: [`Layout::fused_qkv`]. Gives the views of q, k
    /// and v, which keep the buffer alive.
    ///
    /// # Errors
    /// Invalid argument (`q`, `k`, `v`) for another number of values than `shape` says; those of
    /// [`Layout::fused_qkv`] and [`Tensor::zeros`].
    pub fn upload_fused_qkv(
        context: &Context,
        dtype: DType,
        shape: &Shape,
        [q, k, v]: [&[f32]; 3],
    ) -> Result<[TensorView; 3]> {
        let layouts = Layout::fused_qkv(shape)?;
        for (argument, (layout, values)) in ["q", "k", "v"].into_iter().zip(layouts.iter().zip([q, k, v])) {
            let (want, got) = (layout.elements(), values.len());
            ensure!(got == want, argument, "expected {want} values, got {got}");
        }
        let extent = layouts.iter().map(Layout::extent).max().unwrap_or(0);
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let bytes = (extent * dtype.size()) as u64;
        let buffer = context.create_buffer("prflash fused tensors", bytes, usage)?;
        let mut flat = vec![0.0; extent];
        for (layout, values) in layouts.iter().zip([q, k, v]).filter(|(layout, _)| layout.elements() > 0) {
            layout.scatter(values, &mut flat)?;
        }
        let bytes = dtype.encode(&flat);
        context.capture(|| context.queue().write_buffer(&buffer, 0, &bytes))?;
        let device = context.device_id();
        Ok(layouts.map(|layout| TensorView { device, buffer: buffer.clone(), dtype, layout }))
    }

    /// Uploads an array of shape `[batch, heads, len, dim]`, whatever its strides, into contiguous
    /// heads-first storage.
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

    /// [`TensorView::write`] of the whole tensor.
    ///
    /// # Errors
    /// As [`TensorView::write`].
    pub fn write(&self, context: &Context, values: &[f32]) -> Result<()> {
        self.view.write(context, values)
    }

    /// [`TensorView::write_rows`] of the whole tensor.
    ///
    /// # Errors
    /// As [`TensorView::write_rows`].
    pub fn write_rows(
        &self,
        context: &Context,
        entry: usize,
        rows: Range<usize>,
        values: &[f32],
    ) -> Result<()> {
        self.view.write_rows(context, entry, rows, values)
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
    /// `granule` is 4 for tensors that are loaded in quads, 1 for rows of single numbers. An empty
    /// tensor is bound to `empty`.
    pub(crate) fn new(
        argument: &'static str,
        view: &TensorView,
        granule: usize,
        context: &Context,
        empty: &wgpu::Buffer,
    ) -> Result<Self> {
        if view.layout.elements() == 0 {
            return Ok(Self::whole(empty));
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

    /// All of a buffer that stands in for a tensor.
    pub(crate) fn whole(buffer: &wgpu::Buffer) -> Self {
        Self { buffer: buffer.clone(), offset: 0, size: buffer.size(), base: 0 }
    }

    pub(crate) fn resource(&self) -> wgpu::BindingResource<'_> {
        wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: &self.buffer,
            offset: self.offset,
            size: std::num::NonZeroU64::new(self.size),
        })
    }
}
