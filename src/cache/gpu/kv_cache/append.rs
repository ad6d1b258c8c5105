//! Appending: room, moves, and the commands for both.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::input::InputShard;
use super::{Book, Chunk, KvCache, KvInput, MOVES};
use crate::cache::gpu::arena::{Arena, ArenaShard, Held, Room, grow_in_place, repacked};
use crate::cache::gpu::ledger::{Draft, Token};
use crate::cache::gpu::migration::Migration;
use crate::cache::gpu::moves::{Appended, InputRows, Mover, Pass};
use crate::cache::gpu::params::{Move, MoveParams};
use crate::cache::gpu::programs::CacheMove;
use crate::cache::ladder::Side;
use crate::cache::sequence_table::SequenceId;
use crate::error::{Error, Result, ensure};
use crate::runtime::binding::Axis;
use crate::runtime::dispatch;
use crate::runtime::program::Pipeline;
use crate::runtime::slots::Slot;

/// Units of the moves of one dispatch, at most: longer appends dispatch again.
pub(super) const UNITS: usize = 1 << 28;

/// Room for sequences, found but not taken yet.
pub(super) struct Grown {
    pub(super) sequences: Vec<Option<Held>>,
    /// If all of them move: where to, and how.
    moved: Option<(Arena, Arc<Migration>)>,
}

/// One dispatch of a change.
pub(super) struct Dispatch<'a> {
    pipeline: &'a Pipeline,
    arena: wgpu::BindGroup,
    /// The tensors, for kernels that read them.
    input: Option<&'a wgpu::BindGroup>,
    slot: Slot,
    workgroups: (u32, u32),
}

impl Grown {
    /// The arena in which the sequences have room.
    pub(super) fn arena<'a>(&'a self, now: &'a Arena) -> &'a Arena {
        self.moved.as_ref().map_or(now, |(arena, _)| arena)
    }
}

impl Book {
    /// Takes the room, and records what has to come before anything else in the new arena. Gives
    /// the arena, if it is a new one.
    pub(super) fn adopt(&mut self, encoder: &mut wgpu::CommandEncoder, grown: Grown) -> Option<Arena> {
        self.sequences.replace(grown.sequences);
        let arena = grown.moved.map(|(arena, migration)| {
            self.arena = migration.arena;
            self.migrations.push(migration);
            arena
        });
        self.migrations.iter().for_each(|migration| migration.record(encoder));
        arena
    }

    /// Adds the sequence that [`KvCache::room_for`] has found room for. Gives the arena, too, if it
    /// is a new one.
    pub(super) fn add_with(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        mut grown: Grown,
    ) -> (SequenceId, Option<Arena>) {
        let added = self.add();
        if let (Some(Some(to)), Ok(new)) = (grown.sequences.get_mut(added.number()), self.get(added)) {
            to.account = new.account;
        }
        (added, self.adopt(encoder, grown))
    }

    /// Enters a change; its token belongs into the encoder.
    pub(super) fn enter(&mut self, draft: Draft) -> Token {
        self.ledger.enter(draft, self.arena)
    }
}

impl KvCache {
    /// Records that rows of `input` are appended to sequences, each rounded to f16. The rows are
    /// read when the commands run.
    ///
    /// Numbers that are NaN, infinite or past f16's ±65,504 are stored as 0 and counted: see
    /// [`check`](KvCache::check).
    ///
    /// # Errors
    /// Invalid argument: (`input`) of another cache; (`chunks`) with rows that the input doesn't
    /// have, or a sequence twice; (`sequence`) if there is none such. Out of order, if commands
    /// were lost by it that no call has told of yet. Too large (`tokens`) past
    /// [`max_len`](KvCache::max_len), or where the device can't bind or hold the memory. Out of
    /// memory; device lost. Then nothing was recorded and the cache is as it was.
    pub fn append(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        input: &KvInput,
        chunks: &[Chunk],
    ) -> Result<()> {
        let this = &*self;
        let mut book = this.book();
        book.ledger.check()?;
        this.context.check_alive()?;
        let needs = this.check_append(&book, input, chunks)?;
        if needs.is_empty() {
            return Ok(());
        }
        let grown = this.grown(&book, book.sequences.slots(), &needs)?;
        let mut draft = book.ledger.draft();
        let changed: Vec<SequenceId> = needs.iter().map(|need| need.0).collect();
        let arena = grown.arena(&this.arena);
        let mut dispatches = this.dispatches(arena, &grown.sequences, input, chunks, draft.number)?;
        dispatches.extend(this.commit(arena, &grown.sequences, &changed, draft.number)?);
        // Nothing can fail any more.
        let arena = book.adopt(encoder, grown);
        for &(sequence, len) in &needs {
            // Not fewer than before, though it may have been truncated.
            let before = book.get(sequence).map_or(0, Held::segments);
            let segments = before.max(this.staircase().segments_after(len));
            book.change(&mut draft, sequence, len, segments);
        }
        let token = book.enter(draft);
        record(encoder, dispatches, token);
        drop(book);
        if let Some(arena) = arena {
            self.arena = arena;
        }
        Ok(())
    }

    /// Makes room for `tokens` tokens of a sequence, those that it has included, so that appends up
    /// to there don't have to.
    ///
    /// # Errors
    /// As [`append`](KvCache::append).
    pub fn reserve(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        sequence: SequenceId,
        tokens: usize,
    ) -> Result<()> {
        let this = &*self;
        let mut book = this.book();
        book.ledger.check()?;
        this.context.check_alive()?;
        book.get(sequence)?;
        this.check_len(tokens)?;
        let grown = this.grown(&book, book.sequences.slots(), &[(sequence, tokens)])?;
        let arena = book.adopt(encoder, grown);
        if arena.is_some() {
            let draft = book.ledger.draft();
            let token = book.enter(draft);
            record(encoder, Vec::new(), token);
        }
        drop(book);
        if let Some(arena) = arena {
            self.arena = arena;
        }
        Ok(())
    }

    fn check_len(&self, tokens: usize) -> Result<()> {
        if tokens <= self.max_len() {
            return Ok(());
        }
        let message =
            format!("{tokens} tokens are past the {} of this cache's longest sequence", self.max_len());
        Err(Error::too_large("tokens", message))
    }

    /// Everything that an append is refused for, but for memory: gives the lengths that sequences
    /// will have.
    fn check_append(
        &self,
        book: &Book,
        input: &KvInput,
        chunks: &[Chunk],
    ) -> Result<Vec<(SequenceId, usize)>> {
        ensure!(Arc::ptr_eq(&self.owner, &input.owner), "input", "was made by another cache");
        let mut seen = BTreeSet::new();
        let mut needs = Vec::with_capacity(chunks.len());
        for (index, chunk) in chunks.iter().enumerate() {
            let (sequence, entry, Range { start, end }) = (chunk.sequence, chunk.entry, chunk.rows.clone());
            ensure!(
                start <= end,
                "chunks",
                "chunk {index}: expected a start of its rows up to their end, got {start}..{end}"
            );
            let tokens = end - start;
            let len = book.get(sequence)?.len();
            ensure!(
                seen.insert(sequence),
                "chunks",
                "sequence {sequence} comes twice; use a call for each of its chunks"
            );
            let rows = input.rows[0].min(input.rows[1]);
            ensure!(
                (entry < input.batch && end <= rows) || tokens == 0,
                "chunks",
                "chunk {index} has rows {start}..{end} of batch entry {entry}; the input has {} entries of {rows} rows",
                input.batch
            );
            self.check_len(len.saturating_add(tokens))?;
            if tokens > 0 {
                needs.push((sequence, len + tokens));
            }
        }
        Ok(needs)
    }

    /// Room for one more sequence of so many tokens and segments, as if it were there already; it
    /// is added once nothing can fail. With it its number, and the words of its regions.
    pub(super) fn room_for(
        &self,
        book: &Book,
        [len, segments]: [usize; 2],
    ) -> Result<(SequenceId, Grown, [usize; 2])> {
        let mut sequences = book.sequences.clone();
        let index = sequences.add(Held::default());
        let mut new = Held::default();
        (new.account.state.len, new.account.state.segments) = (len, segments);
        let grown = self.grown(book, sequences.slots(), &[(index, self.sizes().least(&new))])?;
        Ok((index, grown, self.sizes().live_region_words(&new)))
    }

    /// Room for so many tokens of sequences: in the arena if there is, else in a new one.
    pub(super) fn grown(
        &self,
        book: &Book,
        sequences: &[Option<Held>],
        needs: &[(SequenceId, usize)],
    ) -> Result<Grown> {
        let (sizes, strides) = (self.sizes(), self.arena.strides);
        let needs: Vec<_> = needs.iter().map(|(sequence, tokens)| (sequence.number(), *tokens)).collect();
        if let Some(sequences) = grow_in_place(&sizes, sequences, strides, &needs) {
            return Ok(Grown { sequences, moved: None });
        }
        let attempt = |room| {
            let (to, words) = repacked(&sizes, sequences, strides, &needs, room);
            let arena = Arena::new(&self.binding(), words)?;
            let migration = Migration::new(
                &self.context,
                &sizes,
                self.kv_heads(),
                (&self.arena, sequences),
                (&arena, &to),
                book.arena + 1,
            )?;
            Ok(Grown { sequences: to, moved: Some((arena, Arc::new(migration))) })
        };
        let refused = |error: &Error| error.is_too_large() || error.is_out_of_memory();
        match attempt(Room::Ample) {
            Err(error) if refused(&error) => match attempt(Room::Doubled) {
                Err(error) if refused(&error) => attempt(Room::Least),
                result => result,
            },
            result => result,
        }
    }

    /// The dispatches of an append, in order, their parameters on their way to the GPU.
    fn dispatches<'a>(
        &'a self,
        arena: &Arena,
        sequences: &[Option<Held>],
        input: &'a KvInput,
        chunks: &[Chunk],
        number: u32,
    ) -> Result<Vec<Dispatch<'a>>> {
        let mut dispatches = Vec::new();
        for shard in &input.shards {
            let here = |chunk: &&Chunk| !chunk.rows.is_empty() && shard.entries.contains(&chunk.entry);
            let appended = chunks.iter().filter(here).filter_map(|chunk| {
                let held = sequences.get(chunk.sequence.number())?.as_ref()?;
                let rows = |axis: &Axis| InputRows {
                    first: axis.at(chunk.entry - shard.entries.start, chunk.rows.start),
                    stride: axis.row_stride,
                };
                Some(Appended {
                    len: held.len(),
                    segments: held.segments(),
                    tokens: chunk.rows.len(),
                    leaving: 0,
                    bases: held.regions(),
                    stamp: held.bases[0],
                    expected: held.account.state.stamp,
                    input: [rows(&shard.axes[0]), rows(&shard.axes[1])],
                })
            });
            let appended: Vec<Appended> = appended.collect();
            dispatches.extend(self.passes(arena, (input, shard), &appended, number)?);
        }
        Ok(dispatches)
    }

    /// The passes of these sequences, in the heads of one shard of the input.
    pub(super) fn passes<'a>(
        &'a self,
        arena: &Arena,
        (input, shard): (&'a KvInput, &'a InputShard),
        appended: &[Appended],
        number: u32,
    ) -> Result<Vec<Dispatch<'a>>> {
        let mover = Mover { staircase: self.staircase(), layout: &self.layout };
        let mut dispatches = Vec::new();
        for Pass { quantize, summarize, step_down, append } in mover.passes(appended) {
            let kinds = [
                (&input.quantize, quantize),
                (&input.summarize, summarize),
                (&self.step_down, step_down),
                (&input.append, append),
            ];
            for (pipeline, moves) in kinds {
                for moves in runs(&moves) {
                    for arena in &arena.shards {
                        dispatches.extend(self.dispatch(pipeline, arena, Some(shard), moves, number)?);
                    }
                }
            }
        }
        Ok(dispatches)
    }

    /// The dispatches that end a change of these sequences.
    pub(super) fn commit(
        &self,
        arena: &Arena,
        sequences: &[Option<Held>],
        changed: &[SequenceId],
        number: u32,
    ) -> Result<Vec<Dispatch<'_>>> {
        let held = changed.iter().filter_map(|sequence| sequences.get(sequence.number())?.as_ref());
        let stamp = |held: &Held| Move {
            destination: held.bases[0] as u32,
            stamp: held.bases[0] as u32,
            expected: held.account.state.stamp,
            ..Move::default()
        };
        let moves: Vec<(Move, usize)> = held.map(|held| (stamp(held), 1)).collect();
        let mut dispatches = Vec::new();
        for moves in runs(&moves) {
            for arena in &arena.shards {
                dispatches.extend(self.dispatch(&self.commit, arena, None, moves, number)?);
            }
        }
        Ok(dispatches)
    }

    /// One dispatch, in the heads that both shards have.
    pub(super) fn dispatch<'a>(
        &self,
        pipeline: &'a Pipeline,
        arena: &ArenaShard,
        input: Option<&'a InputShard>,
        moves: &[(Move, usize)],
        number: u32,
    ) -> Result<Option<Dispatch<'a>>> {
        let input_heads = input.map_or(0..self.kv_heads(), |input| input.kv_heads.clone());
        let first_head = arena.kv_heads.start.max(input_heads.start);
        let heads = arena.kv_heads.end.min(input_heads.end).saturating_sub(first_head);
        if heads == 0 {
            return Ok(None);
        }
        let mut units = 0;
        let mut table = Vec::with_capacity(moves.len());
        for &(entry, its_units) in moves {
            table.push(Move { first: units as u32, ..entry });
            units += its_units;
        }
        let tiles = units.div_ceil(CacheMove::INVOCATIONS);
        let limit = self.context.capabilities().max_workgroups_per_dimension;
        let workgroups = dispatch::fold((heads * tiles) as u64, limit)?;
        let [k, v] = input.map_or([Axis::default(); 2], |input| input.axes);
        let params = MoveParams {
            work_items: (heads * tiles) as u32,
            tiles: tiles as u32,
            units: units as u32,
            moves: table.len() as u32,
            arena_head: (first_head - arena.kv_heads.start) as u32,
            input_head: (first_head - input_heads.start) as u32,
            k_head_stride: k.head_stride,
            k_row_stride: k.row_stride,
            k_quads: self.dim(Side::Keys) as u32 / 4,
            v_head_stride: v.head_stride,
            v_row_stride: v.row_stride,
            v_quads: self.dim(Side::Values) as u32 / 4,
            number,
        };
        let slot =
            self.slots.take(&self.context, bytemuck::bytes_of(&params), bytemuck::cast_slice(&table))?;
        let input = input.map(|input| &input.bind_group);
        Ok(Some(Dispatch { pipeline, arena: arena.write.clone(), input, slot, workgroups }))
    }
}

/// Runs of moves that one dispatch can make.
pub(super) fn runs(mut moves: &[(Move, usize)]) -> Vec<&[(Move, usize)]> {
    let mut runs = Vec::new();
    while !moves.is_empty() {
        let mut units = 0;
        let fitting = moves.iter().take(MOVES).take_while(|(_, its_units)| {
            units += its_units;
            units <= UNITS
        });
        let count = fitting.count().max(1);
        let (run, rest) = moves.split_at(count);
        runs.push(run);
        moves = rest;
    }
    runs
}

/// Records a change in one pass, and in it the token that tells what becomes of it.
pub(super) fn record(encoder: &mut wgpu::CommandEncoder, dispatches: Vec<Dispatch<'_>>, token: Token) {
    // Each dispatch sees what those before it have written.
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
        label: Some("prflash append"),
        timestamp_writes: None,
    });
    for Dispatch { pipeline, arena, input, slot, workgroups: (x, y) } in dispatches {
        pass.set_pipeline(&pipeline.pipeline);
        slot.bind(&mut pass, None);
        pass.set_bind_group(CacheMove::ARENA_GROUP as u32, &arena, &[]);
        if let Some(input) = input {
            pass.set_bind_group(CacheMove::INPUT_GROUP as u32, input, &[]);
        }
        pass.dispatch_workgroups(x, y, 1);
    }
    pass.on_submitted_work_done(move || token.ran());
}
