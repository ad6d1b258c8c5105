//! One batch after the other on a device.

use std::sync::Arc;

use super::params::{BatchParams, FoldParams, UpdateParams};
use super::programs::{Form, ROW_NUMBERS, STRETCH, STRETCH_NUMBERS, Sum, Word2vec};
use crate::error::{Error, Result};
use crate::runtime::context::Context;
use crate::runtime::dispatch;
use crate::runtime::program::{Pipeline, Program};
use crate::word2vec::batch::{Batch, RUN, Sums};
use crate::word2vec::options::Options;

/// The kernels of a step, bound to weights and to everything that a batch needs.
#[derive(Debug)]
pub(super) struct Step {
    cap: u32,
    params: wgpu::Buffer,
    slot: u64,
    batch: wgpu::Buffer,
    /// Word vectors, and the weights of outputs.
    weights: [wgpu::Buffer; 2],
    /// Weights of before, to go back to.
    kept: [wgpu::Buffer; 2],
    diverged: wgpu::Buffer,
    dimension: usize,
    passes: Vec<Pass>,
    /// The batch as it is uploaded, kept for its memory.
    numbers: Vec<u32>,
}

/// A kernel bound to its resources.
#[derive(Debug)]
struct Pass {
    program: Word2vec,
    /// Of inputs or outputs, where the kernel runs for both.
    matrix: usize,
    pipeline: Arc<Pipeline>,
    group: wgpu::BindGroup,
}

/// Where the lists of one matrix lie in a batch.
struct Placed {
    rows: u32,
    row_count: u32,
    stretches: u32,
    stretch_count: u32,
    gradients: u32,
}

impl Step {
    /// For weights of so many rows, which are written by who calls.
    pub(super) fn new(
        context: &Context,
        options: &Options,
        rows: usize,
        program: &dyn Fn(Word2vec) -> Box<dyn Program>,
    ) -> Result<Self> {
        let form = Form::new(options);
        let storage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let readable = storage | wgpu::BufferUsages::COPY_SRC;
        let limit = context.capabilities().max_binding_bytes.min(context.capabilities().max_buffer_bytes);
        let buffer = |argument: &'static str, bytes: u64, usage| {
            if bytes > limit {
                let message = format!("{bytes} bytes are past the {limit} that this device can bind at once");
                return Err(Error::too_large(argument, message));
            }
            context.create_buffer("prflash word2vec", bytes, usage)
        };
        let row = 16 * form.quads as u64;
        let weights = || buffer("dimension", rows as u64 * row, readable);
        let (weights, kept) = ([weights()?, weights()?], [weights()?, weights()?]);
        let capacity = Capacity::new(form, options);
        let batch = buffer("batch", 4 * capacity.numbers as u64, storage)?;
        let gradients = buffer("batch", capacity.gradients as u64 * row, readable)?;
        let errors = buffer("batch", 4 * capacity.errors as u64, readable)?;
        let means = match form.pairs {
            true => None,
            false => Some(buffer("batch", options.batch as u64 * row, readable)?),
        };
        let diverged = buffer("batch", 4, readable)?;
        let slot = u64::from(context.device().limits().min_uniform_buffer_offset_alignment).max(32);
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let params = context.create_buffer("prflash word2vec", 5 * slot, usage)?;
        let mut passes = Vec::new();
        let mut pass = |kind, number: usize, matrix, bytes: usize, others: &[&wgpu::Buffer]| -> Result<()> {
            let pipeline = context.pipeline(&*program(kind))?;
            let own = wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: &params,
                offset: number as u64 * slot,
                size: std::num::NonZeroU64::new(bytes as u64),
            });
            let mut resources = vec![own, batch.as_entire_binding()];
            resources.extend(others.iter().map(|buffer| buffer.as_entire_binding()));
            let group = pipeline.bind(context, "prflash word2vec", 0, &resources)?;
            passes.push(Pass { program: kind, matrix, pipeline, group });
            Ok(())
        };
        let [vectors, outputs] = &weights;
        let inputs = means.as_ref().unwrap_or(vectors);
        let bytes = size_of::<BatchParams>();
        if form.pairs {
            pass(Word2vec::Inputs(form), 0, 0, bytes, &[inputs, outputs, &errors, &gradients])?;
            let others = [inputs, &gradients, &errors];
            pass(Word2vec::Windows(form, Sum::Targets), 0, 0, bytes, &others)?;
        } else {
            pass(Word2vec::Windows(form, Sum::Means), 0, 0, bytes, &[vectors, inputs])?;
            pass(Word2vec::Inputs(form), 0, 0, bytes, &[inputs, outputs, &errors, &gradients])?;
            pass(Word2vec::Windows(form, Sum::Spread), 0, 0, bytes, &[&gradients])?;
        }
        pass(Word2vec::Negatives(form), 0, 0, bytes, &[inputs, &errors, &gradients])?;
        for matrix in 0..2 {
            pass(Word2vec::Fold(form), 1 + matrix, matrix, size_of::<FoldParams>(), &[&gradients])?;
        }
        for (matrix, weights) in weights.iter().enumerate() {
            let others = [&gradients, weights, &diverged];
            pass(Word2vec::Update(form), 3 + matrix, matrix, size_of::<UpdateParams>(), &others)?;
        }
        let numbers = Vec::with_capacity(capacity.numbers);
        Ok(Self {
            cap: options.cap,
            params,
            slot,
            batch,
            weights,
            kept,
            diverged,
            dimension: options.dimension,
            passes,
            numbers,
        })
    }

    /// Writes all weights, a row a word.
    pub(super) fn write(&self, context: &Context, weights: [&[f32]; 2]) -> Result<()> {
        let columns = self.dimension.next_multiple_of(4);
        for (buffer, weights) in self.weights.iter().zip(weights) {
            let mut padded = vec![0.0f32; weights.len() / self.dimension * columns];
            for (to, row) in padded.chunks_mut(columns).zip(weights.chunks(self.dimension)) {
                to[..row.len()].copy_from_slice(row);
            }
            context.capture(|| context.queue().write_buffer(buffer, 0, bytemuck::cast_slice(&padded)))?;
        }
        Ok(())
    }

    /// The weights of inputs (0) or outputs (1), a row a word.
    pub(super) async fn read(&self, context: &Context, matrix: usize) -> Result<Vec<f32>> {
        let columns = self.dimension.next_multiple_of(4);
        let buffer = &self.weights[matrix];
        let bytes = context.read_buffer(buffer, 0, buffer.size()).await?;
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
        Ok(values.chunks(columns).flat_map(|row| &row[..self.dimension]).copied().collect())
    }

    /// Keeps the weights as they are now.
    pub(super) fn keep(&self, context: &Context) -> Result<()> {
        copy(context, &self.weights, &self.kept)
    }

    /// Goes back to the weights that were kept.
    pub(super) fn restore(&self, context: &Context) -> Result<()> {
        context.capture(|| context.queue().write_buffer(&self.diverged, 0, &[0; 4]))?;
        copy(context, &self.kept, &self.weights)
    }

    /// The number of the first batch that made a weight too large, if one did.
    pub(super) async fn diverged(&self, context: &Context) -> Result<Option<u32>> {
        let bytes = context.read_buffer(&self.diverged, 0, 4).await?;
        let number = bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        Ok((number != 0).then_some(!number))
    }

    /// Submits a batch, with its number.
    pub(super) fn submit(&mut self, context: &Context, batch: &Batch, rate: f32, number: u32) -> Result<()> {
        if batch.centres() == 0 {
            return Ok(());
        }
        let numbers = &mut self.numbers;
        numbers.clear();
        let mut put = |list: &[u32]| {
            numbers.extend_from_slice(list);
            (numbers.len() - list.len()) as u32
        };
        put(&batch.tokens);
        let all = BatchParams {
            centres: batch.centres() as u32,
            windows: put(&batch.windows),
            pairs: put(&batch.pairs),
            negatives: put(&batch.negatives),
        };
        let placed = [&batch.input_sums, &batch.output_sums].map(|sums| place(sums, self.cap, numbers));
        let mut params = vec![0u8; 5 * self.slot as usize];
        let mut write = |number: usize, bytes: &[u8]| {
            params[number * self.slot as usize..][..bytes.len()].copy_from_slice(bytes);
        };
        write(0, bytemuck::bytes_of(&all));
        for (matrix, placed) in placed.iter().enumerate() {
            let gradients = placed.gradients;
            let fold = FoldParams { stretches: placed.stretch_count, first: placed.stretches, gradients };
            write(1 + matrix, bytemuck::bytes_of(&fold));
            let update = UpdateParams { rows: placed.row_count, first: placed.rows, gradients, rate, number };
            write(3 + matrix, bytemuck::bytes_of(&update));
        }
        let limit = context.capabilities().max_workgroups_per_dimension;
        let mut dispatches = Vec::with_capacity(self.passes.len());
        for pass in &self.passes {
            let items = match pass.program {
                Word2vec::Inputs(_) => batch.items(),
                Word2vec::Windows(_, Sum::Spread) => batch.tokens.len(),
                Word2vec::Windows(..) => batch.centres(),
                Word2vec::Negatives(_) => batch.negatives.len(),
                Word2vec::Fold(_) => placed[pass.matrix].stretch_count as usize,
                Word2vec::Update(_) => placed[pass.matrix].row_count as usize,
            };
            dispatches.push(dispatch::fold(pass.program.workgroups(items), limit)?);
        }
        let commands = context.capture(|| {
            context.queue().write_buffer(&self.params, 0, &params);
            context.queue().write_buffer(&self.batch, 0, bytemuck::cast_slice(numbers));
            let mut encoder = context.device().create_command_encoder(&Default::default());
            let mut recorded = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: Some("prflash word2vec"),
                timestamp_writes: None,
            });
            for (pass, (x, y)) in self.passes.iter().zip(&dispatches).filter(|(_, (x, _))| *x > 0) {
                recorded.set_pipeline(&pass.pipeline.pipeline);
                recorded.set_bind_group(0, &pass.group, &[]);
                recorded.dispatch_workgroups(*x, *y, 1);
            }
            drop(recorded);
            encoder.finish()
        })?;
        context.submit([commands])
    }
}

fn copy(context: &Context, from: &[wgpu::Buffer; 2], to: &[wgpu::Buffer; 2]) -> Result<()> {
    let commands = context.capture(|| {
        let mut encoder = context.device().create_command_encoder(&Default::default());
        for (from, to) in from.iter().zip(to) {
            encoder.copy_buffer_to_buffer(from, 0, to, 0, from.size());
        }
        encoder.finish()
    })?;
    context.submit([commands])
}

/// Writes the lists of a matrix: rows, stretches of long lists, gradients.
fn place(sums: &Sums, cap: u32, numbers: &mut Vec<u32>) -> Placed {
    let rows = numbers.len() as u32;
    for sum in &sums.rows {
        let capped = (cap as f32 / sum.hits as f32).min(1.0);
        let row: [u32; ROW_NUMBERS] = [sum.row, sum.begin, sum.count, capped.to_bits()];
        numbers.extend(row);
    }
    let stretches = numbers.len() as u32;
    for sum in sums.rows.iter().filter(|sum| sum.count as usize > STRETCH) {
        for begin in (0..sum.count).step_by(STRETCH) {
            let count = (sum.count - begin).min(STRETCH as u32);
            let stretch: [u32; STRETCH_NUMBERS] = [sum.begin + begin, count];
            numbers.extend(stretch);
        }
    }
    let gradients = numbers.len() as u32;
    numbers.extend_from_slice(&sums.gradients);
    let row_count = sums.rows.len() as u32;
    let stretch_count = (gradients - stretches) / STRETCH_NUMBERS as u32;
    Placed { rows, row_count, stretches, stretch_count, gradients }
}

/// What the largest batch takes.
struct Capacity {
    /// The numbers of a batch's upload.
    numbers: usize,
    /// How many rows of gradients there are.
    gradients: usize,
    errors: usize,
}

impl Capacity {
    fn new(form: Form, options: &Options) -> Self {
        let centres = options.batch;
        let tokens = centres + 2 * form.window;
        let items = if form.pairs { tokens } else { centres };
        let negatives = items.div_ceil(RUN) * form.shared;
        let gradients = centres + negatives + tokens;
        // Of each gradient its number, that of its row with what belongs to it, and a part of a
        // stretch. A row has at most one stretch that isn't full.
        let stretches = 2 * gradients.div_ceil(STRETCH);
        let lists = (1 + ROW_NUMBERS) * gradients + STRETCH_NUMBERS * stretches;
        let numbers = tokens + centres + items + negatives + lists;
        let (of_pairs, changes) = if form.pairs { (centres * form.ring(), 0) } else { (0, centres) };
        Self { numbers, gradients: gradients + changes, errors: of_pairs + items * form.shared }
    }
}
