//! Sequences that begin with another's tokens.

use super::KvCache;
use super::append::{UNITS, record, runs};
use crate::cache::gpu::params::{FLAG_VALUES, Move};
use crate::cache::gpu::programs::CacheMove;
use crate::cache::host_cache::check_truncation;
use crate::cache::sequence_table::SequenceId;
use crate::error::Result;

impl KvCache {
    /// Adds a sequence that begins with the first `len` tokens of another: the same prompt for
    /// several answers, or a beam that parts. Its words are copied on the GPU, in order with
    /// everything else that is recorded, and from then on neither knows of the other.
    ///
    /// The copy takes the memory that the tokens take. What has left the residual is copied as it
    /// lies, so `len` is anywhere in the residual, as for [`truncate`](KvCache::truncate): in a
    /// segment of codes no place is left for the tokens that would come behind the cut.
    ///
    /// ```no_run
    /// # use prflash::{cache::{KvCache, SequenceId}, wgpu::CommandEncoder};
    /// # fn answers(cache: &mut KvCache, encoder: &mut CommandEncoder, prompt: SequenceId) -> prflash::Result<()> {
    /// // Four answers to one prompt, which was computed once.
    /// let len = cache.len(prompt)?;
    /// let answers = (0..4).map(|_| cache.fork(encoder, prompt, len));
    /// let answers = answers.collect::<prflash::Result<Vec<_>>>()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Invalid argument: (`sequence`) if there is none such; (`len`) if it is shorter, or the first
    /// token that is left out has left the residual. Those of [`append`](KvCache::append) about
    /// memory and order. Then nothing was recorded or added.
    pub fn fork(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        sequence: SequenceId,
        len: usize,
    ) -> Result<SequenceId> {
        let this = &*self;
        let mut book = this.book();
        book.ledger.check()?;
        this.context.check_alive()?;
        let other = book.get(sequence)?.account;
        let segments = other.state.segments;
        check_truncation(&this.staircase().standing_at(other.state.len, segments).residual(), len)?;
        let (index, grown, words) = this.room_for(&book, [len, segments])?;
        let mut draft = book.ledger.draft();
        let kernel = this.context.pipeline(&CacheMove::Fork)?;
        let arena = grown.arena(&this.arena);
        let mut dispatches = Vec::new();
        let held = |id: SequenceId| grown.sequences.get(id.number())?.as_ref();
        if let (Some(from), Some(to)) = (held(sequence).filter(|_| len > 0), held(index)) {
            // It takes place where the other sequence is as it is known now.
            let guard = Move { stamp: from.bases[0] as u32, expected: other.state.stamp, ..Move::default() };
            let mut moves = Vec::new();
            for (side, all) in words.into_iter().enumerate() {
                let [source, destination] = [from, to].map(|held| held.regions()[side]);
                for start in (0..all).step_by(UNITS) {
                    let copy = Move {
                        flags: if side == 1 { FLAG_VALUES } else { 0 },
                        source: (source + start) as u32,
                        destination: (destination + start) as u32,
                        ..guard
                    };
                    moves.push((copy, (all - start).min(UNITS)));
                }
            }
            let commit = [(Move { destination: to.bases[0] as u32, ..guard }, 1)];
            for (pipeline, moves) in [(&*kernel, &moves[..]), (&*this.commit, &commit[..])] {
                for moves in runs(moves) {
                    for shard in &arena.shards {
                        dispatches.extend(this.dispatch(pipeline, shard, None, moves, draft.number)?);
                    }
                }
            }
        }

        // Nothing can fail any more.
        let (added, arena) = book.add_with(encoder, grown);
        if len > 0 {
            book.give(&mut draft, added, len, segments);
            if let Ok(new) = book.get(added) {
                draft.copy((sequence.number(), &other), (added.number(), &new.account));
            }
        }
        let token = book.enter(draft);
        record(encoder, dispatches, token);
        drop(book);
        if let Some(arena) = arena {
            self.arena = arena;
        }
        Ok(added)
    }
}
