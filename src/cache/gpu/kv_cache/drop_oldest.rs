//! Segments dropped before their time.

use super::KvCache;
use super::append::record;
use crate::cache::gpu::moves::{Appended, InputRows};
use crate::cache::ladder::Side;
use crate::cache::sequence_table::SequenceId;
use crate::error::{Error, Result};
use crate::layout::{DType, Layout};
use crate::runtime::tensor::Tensor;

impl KvCache {
    /// Records that the oldest segments that a sequence still holds are dropped, but for the copies
    /// of its sinks: a context shift, as
    /// [`HostCache::drop_oldest`](crate::cache::HostCache::drop_oldest) says. The tokens that stay
    /// keep their numbers, and so [`max_len`](KvCache::max_len) still bounds all tokens that ever
    /// came; a staircase that drops takes the same memory for any `max_len`.
    ///
    /// ```no_run
    /// # use prflash::{cache::{KvCache, SequenceId}, wgpu::CommandEncoder};
    /// # fn shift(cache: &mut KvCache, encoder: &mut CommandEncoder, chat: SequenceId) -> prflash::Result<()> {
    /// // A cache of `Staircase::streaming(4096)`: half of its window is given up before a long turn.
    /// cache.drop_oldest(encoder, chat, 4096 / 2 / cache.staircase().segment())?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`HostCache::drop_oldest`](crate::cache::HostCache::drop_oldest); too large
    /// (`segments`) where a sequence of `max_len` tokens would hold more of them in the residual.
    /// Those of [`append`](KvCache::append) about order and memory. Then nothing was recorded.
    pub fn drop_oldest(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        sequence: SequenceId,
        segments: usize,
    ) -> Result<()> {
        let this = &*self;
        let mut book = this.book();
        book.ledger.check()?;
        this.context.check_alive()?;
        let held = book.get(sequence)?.clone();
        let standing = this.staircase().standing_at(held.len(), held.segments());
        let after = standing.segments_to_drop(segments)?;
        let most = this.staircase().segments_after(this.max_len());
        if after == held.segments() {
            return Ok(());
        }
        if after > most {
            let message = format!(
                "{after} segments would have left the residual, past the {most} of this cache's longest sequence"
            );
            return Err(Error::too_large("segments", message));
        }
        // No row is read of it.
        let nothing = |side| {
            let layout = Layout::heads_first(1, this.kv_heads(), 1, this.dim(side))?;
            Tensor::zeros(&this.context, DType::F32, layout)
        };
        let input = this.input(nothing(Side::Keys)?.view(), nothing(Side::Values)?.view())?;
        let needed = this.staircase().residual() + after * this.staircase().segment();
        let grown = this.grown(&book, book.sequences.slots(), &[(sequence, needed)])?;
        let mut draft = book.ledger.draft();
        let arena = grown.arena(&this.arena);
        let place = grown.sequences[sequence.number()].as_ref().unwrap_or(&held);
        let aged = Appended {
            len: held.len(),
            segments: held.segments(),
            tokens: 0,
            leaving: after - held.segments(),
            bases: place.regions(),
            stamp: place.bases[0],
            expected: held.account.state.stamp,
            input: [InputRows::default(); 2],
        };
        let mut dispatches = Vec::new();
        for shard in &input.shards {
            dispatches.extend(this.passes(arena, (&input, shard), &[aged], draft.number)?);
        }
        dispatches.extend(this.commit(arena, &grown.sequences, &[sequence], draft.number)?);

        // Nothing can fail any more.
        let arena = book.adopt(encoder, grown);
        book.change(&mut draft, sequence, held.len(), after);
        let token = book.enter(draft);
        record(encoder, dispatches, token);
        drop(book);
        if let Some(arena) = arena {
            self.arena = arena;
        }
        Ok(())
    }
}
