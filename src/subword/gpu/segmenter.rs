//! A vocabulary with its costs on a device.

use super::packed::{Packed, ROW_BYTES, filled};
use super::programs::Subword;
use crate::error::{Error, Result, ensure};
use crate::runtime::context::Context;
use crate::runtime::pipeline::bind;
use crate::runtime::program::{Pipeline, Program};
use crate::subword::segmenter::{Segmenter, Steps};
use crate::subword::vocabulary::MAX_PIECE;

/// A [`Segmenter`] on a device: its vocabulary and costs are uploaded once, for any number of
/// calls.
///
/// ```no_run
/// use prflash::Context;
/// use prflash::subword::{Cost, Costs, GpuSegmenter, GpuWords, Segmenter, Steps};
/// use prflash::subword::{Vocabulary, WordCounts};
/// let vocabulary = Vocabulary::with_bytes(["the", "re"])?;
/// let costs = Costs::new(Cost::Unit, &vec![0; vocabulary.len()], 0.0)?;
/// let segmenter = Segmenter::new(vocabulary, costs, Steps::Unlimited)?;
/// let context = Context::new_blocking()?;
/// let words = WordCounts::from_words(["there", "the"])?;
/// let words = GpuWords::new(&context, &words)?;
/// let recount = words.recount_blocking(&GpuSegmenter::new(&context, &segmenter)?)?;
/// assert_eq!((recount.counts[256], recount.objective), (2, 3));
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Debug)]
pub struct GpuSegmenter<'s> {
    context: Context,
    segmenter: &'s Segmenter,
    /// The double array of the vocabulary, with costs.
    nodes: wgpu::Buffer,
}

/// What a kernel is bound to behind parameters, words and nodes: what it writes.
pub(super) type Written<'b> = &'b [&'b wgpu::Buffer];

impl<'s> GpuSegmenter<'s> {
    /// Uploads vocabulary and costs: 16 bytes for each node of its tree, of which there are a few
    /// for a piece.
    ///
    /// # Errors
    /// Invalid argument (`segmenter`) for [`Steps::AtMost`], whose cuts only the host makes; too
    /// large (`segmenter`) if the device can't bind the tree at once; out of memory; device lost.
    pub fn new(context: &Context, segmenter: &'s Segmenter) -> Result<Self> {
        let steps = segmenter.steps();
        ensure!(
            !matches!(steps, Steps::AtMost(_)),
            "segmenter",
            "expected Steps::Unlimited or Steps::Fewest on a GPU, got {steps:?}"
        );
        let cost = |piece: u32| piece.checked_sub(1).map_or(0, |piece| segmenter.costs().of(piece) as u32);
        let nodes = segmenter.vocabulary().nodes();
        let nodes: Vec<[u32; 4]> =
            nodes.map(|[base, parent, piece]| [base, parent, piece, cost(piece)]).collect();
        let bytes: &[u8] = bytemuck::cast_slice(&nodes);
        let limit = context.capabilities().max_binding_bytes.min(context.capabilities().max_buffer_bytes);
        if bytes.len() as u64 > limit {
            let message = format!("{} bytes are past the {limit} that this device can bind", bytes.len());
            return Err(Error::too_large("segmenter", message));
        }
        let nodes = filled(context, wgpu::BufferUsages::STORAGE, bytes)?;
        Ok(Self { context: context.clone(), segmenter, nodes })
    }

    /// The segmenter that was uploaded.
    pub(super) fn segmenter(&self) -> &'s Segmenter {
        self.segmenter
    }

    /// The segmenter's device.
    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    /// The least cost of each of these strings without a piece, by its number, or with all of them;
    /// in steps of [`Cost::scale`](crate::subword::Cost::scale). Cuts are as long as they need to
    /// be, whatever the segmenter's [`Steps`].
    ///
    /// For the string of a piece without that piece it is what a use of it costs when it is gone;
    /// for a string that is no piece, what each use costs until it becomes one.
    ///
    /// # Errors
    /// Invalid argument (`strings`) for a string of more than [`MAX_PIECE`] bytes, and for a piece
    /// that isn't there or is a single byte, without which there may be no cut; out of memory;
    /// device lost.
    pub async fn costs_without<S: AsRef<[u8]>>(&self, strings: &[(S, Option<u32>)]) -> Result<Vec<u64>> {
        self.costs_without_by(&Subword::Losses, strings).await
    }

    /// [`costs_without`](GpuSegmenter::costs_without), blocking.
    ///
    /// # Errors
    /// As [`costs_without`](GpuSegmenter::costs_without).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn costs_without_blocking<S: AsRef<[u8]>>(&self, strings: &[(S, Option<u32>)]) -> Result<Vec<u64>> {
        pollster::block_on(self.costs_without(strings))
    }

    /// The same by this program.
    pub(super) async fn costs_without_by<S: AsRef<[u8]>>(
        &self,
        program: &dyn Program,
        strings: &[(S, Option<u32>)],
    ) -> Result<Vec<u64>> {
        self.check(strings)?;
        let context = &self.context;
        let rows = MAX_PIECE / ROW_BYTES;
        let most = Packed::most(context, "strings", Subword::Losses, rows)?;
        let pipeline = context.pipeline(program)?;
        let mut costs = Vec::with_capacity(strings.len());
        for strings in strings.chunks(most) {
            let items = strings.iter().map(|(string, without)| {
                // The number and 1, where 0 stands for none.
                ([without.map_or(0, |piece| piece + 1)], string.as_ref())
            });
            let packed = Packed::new(context, rows, items)?;
            let least = packed.numbers(context)?;
            self.run(&pipeline, [(&packed, &[&least][..])])?;
            let bytes = context.read_buffer(&least, 0, 4 * strings.len() as u64).await?;
            costs.extend(numbers(&bytes).map(u64::from));
        }
        Ok(costs)
    }

    fn check<S: AsRef<[u8]>>(&self, strings: &[(S, Option<u32>)]) -> Result<()> {
        for (index, (string, without)) in strings.iter().enumerate() {
            let len = string.as_ref().len();
            ensure!(
                len <= MAX_PIECE,
                "strings",
                "string {index}: expected at most {MAX_PIECE} bytes, got {len}"
            );
            if let Some(piece) = *without {
                let bytes = self.segmenter.vocabulary().piece(piece).len();
                ensure!(
                    bytes > 1,
                    "strings",
                    "string {index}: expected a piece of two bytes or more, got piece {piece} of {bytes}"
                );
            }
        }
        Ok(())
    }

    /// Submits a program over words, with what it writes for each lot of them.
    pub(super) fn run<'b>(
        &self,
        pipeline: &Pipeline,
        lots: impl IntoIterator<Item = (&'b Packed, Written<'b>)>,
    ) -> Result<()> {
        let context = &self.context;
        let mut groups = Vec::new();
        for (packed, written) in lots {
            let mut resources = Vec::from(packed.resources());
            resources.push(self.nodes.as_entire_binding());
            resources.extend(written.iter().map(|buffer| buffer.as_entire_binding()));
            let layout = &pipeline.groups[Subword::GROUP];
            groups.push((packed, bind(context, "prflash sub-words", layout, &resources)?));
        }
        let commands = context.capture(|| {
            let mut encoder = context.device().create_command_encoder(&Default::default());
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: Some("prflash sub-words"),
                timestamp_writes: None,
            });
            pass.set_pipeline(&pipeline.pipeline);
            for (packed, group) in &groups {
                packed.dispatch(&mut pass, group);
            }
            drop(pass);
            encoder.finish()
        })?;
        context.submit([commands])
    }
}

/// What a kernel wrote, as numbers.
pub(super) fn numbers(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks().0.iter().map(|four| u32::from_le_bytes(*four))
}
