//! Sequences to and from host memory.

use super::KvCache;
use super::append::record;
use crate::cache::file;
use crate::cache::gpu::arena::{Arena, Held};
use crate::cache::host_cache::HostCache;
use crate::cache::ladder::Side;
use crate::cache::sequence::Sequence;
use crate::cache::sequence_table::SequenceId;
use crate::error::{Error, Result};

impl KvCache {
    /// A copy of one sequence in host memory: the only one of a cache of its own
    /// ([`SequenceId::FIRST`]). Everything that was recorded for it must have been submitted; once
    /// that is done. Native backends wait inside.
    ///
    /// # Errors
    /// Invalid argument if there is no such sequence; out of order, if something that was recorded
    /// for it hasn't been submitted; device lost; out of memory.
    pub async fn to_host(&self, sequence: SequenceId) -> Result<HostCache> {
        self.check_order()?;
        let held = self.book().get(sequence)?.clone();
        let standing = self.staircase().standing_at(held.len(), held.segments());
        let words = self.sizes().live_region_words(&held);
        let head_bytes = 4 * (words[0] + words[1]) as u64;
        let all = head_bytes * self.kv_heads() as u64;
        let mut stores = Vec::new();
        let mut regions = Vec::new();
        if all > 0 {
            let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
            // And its stamp behind.
            let copy = self.context.create_buffer("prflash saved sequence", all + 4, usage)?;
            let reading = self.reading(std::iter::once(sequence));
            let commands = self.context.capture(|| {
                let mut encoder = self.context.device().create_command_encoder(&Default::default());
                reading.prepare(&mut encoder);
                for (index, (side, from, to)) in self.spans(&self.arena, &held, words).enumerate() {
                    let bytes = 4 * words[index % 2] as u64;
                    encoder.copy_buffer_to_buffer(&self.arena.buffers[side], from, &copy, to, bytes);
                }
                let stamp = 4 * held.bases[0] as u64;
                encoder.copy_buffer_to_buffer(&self.arena.buffers[0], stamp, &copy, all, 4);
                record(&mut encoder, Vec::new(), reading.token);
                encoder.finish()
            })?;
            self.context.submit([commands])?;
            let bytes = self.context.read_buffer(&copy, 0, all + 4).await?;
            regions = bytemuck::pod_collect_to_vec::<u8, u32>(&bytes);
            // What was read is of use only if the sequence was as it was taken to be.
            self.check_order()?;
            if regions.pop() != Some(held.account.state.stamp) {
                return Err(Error::out_of_order(format!(
                    "sequence {sequence} was copied in another state: submit what was recorded for it first"
                )));
            }
        }
        let mut rest = &regions[..];
        for index in 0..2 * self.kv_heads() {
            let (region, others) = rest.split_at(words[index % 2].min(rest.len()));
            stores.push(match region {
                [] => Default::default(),
                _ => self.layout.gather(&standing, Side::ALL[index % 2], region),
            });
            rest = others;
        }
        let mut host = HostCache::of(self.form.clone());
        host.insert(Sequence { len: held.len(), segments: held.segments(), stores });
        Ok(host)
    }

    /// [`to_host`](KvCache::to_host), blocking.
    ///
    /// # Errors
    /// As [`to_host`](KvCache::to_host).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn to_host_blocking(&self, sequence: SequenceId) -> Result<HostCache> {
        pollster::block_on(self.to_host(sequence))
    }

    /// A sequence as bytes, in the format of [`HostCache::save`]: either cache can
    /// [restore](KvCache::restore) what the other has saved. What is needed, and what is waited
    /// for, is as for [`to_host`](KvCache::to_host).
    ///
    /// # Errors
    /// As [`to_host`](KvCache::to_host).
    pub async fn save(&self, sequence: SequenceId) -> Result<Vec<u8>> {
        self.to_host(sequence).await?.save(SequenceId::FIRST)
    }

    /// [`save`](KvCache::save), blocking.
    ///
    /// # Errors
    /// As [`save`](KvCache::save).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn save_blocking(&self, sequence: SequenceId) -> Result<Vec<u8>> {
        pollster::block_on(self.save(sequence))
    }

    /// Adds a sequence from saved bytes. The copy to the GPU is recorded into your encoder, in
    /// order with everything else.
    ///
    /// # Errors
    /// Those of [`HostCache::restore`]; too large (`bytes`) if the sequence is, or was before it
    /// was truncated, longer than [`max_len`](KvCache::max_len); those of
    /// [`append`](KvCache::append). Then nothing was recorded or added.
    pub fn restore(&mut self, encoder: &mut wgpu::CommandEncoder, bytes: &[u8]) -> Result<SequenceId> {
        let this = &*self;
        let Sequence { len, segments, stores } = file::read_same(&this.form, bytes)?;
        let most = this.staircase().segments_after(this.max_len());
        if len > this.max_len() || segments > most {
            let message = format!(
                "a sequence of {len} tokens, {segments} segments of which have left the residual; this cache has room for {} and {most}",
                this.max_len()
            );
            return Err(Error::too_large("bytes", message));
        }
        let mut book = this.book();
        book.ledger.check()?;
        this.context.check_alive()?;
        let (index, grown, words) = this.room_for(&book, [len, segments])?;
        let standing = this.staircase().standing_at(len, segments);
        let mut regions = Vec::new();
        for (at, store) in stores.iter().enumerate().filter(|_| len > 0) {
            let start = regions.len();
            regions.resize(start + words[at % 2], 0u32);
            this.layout.scatter(&standing, Side::ALL[at % 2], store, &mut regions[start..]);
        }
        let staging = this.upload(&regions)?;
        let mut draft = book.ledger.draft();
        let arena = grown.arena(&this.arena);
        let held = grown.sequences[index.number()].clone().unwrap_or_default();
        let copies: Vec<_> = this.spans(arena, &held, words).collect();
        let buffers = arena.buffers.clone();
        let dispatches = match len {
            0 => Vec::new(),
            _ => this.commit(arena, &grown.sequences, &[index], draft.number)?,
        };

        let (added, arena) = book.add_with(encoder, grown);
        for (at, (side, to, from)) in copies.into_iter().enumerate() {
            let bytes = 4 * words[at % 2] as u64;
            if bytes > 0 {
                encoder.copy_buffer_to_buffer(&staging, from, &buffers[side], to, bytes);
            }
        }
        if len > 0 {
            book.give(&mut draft, added, len, segments);
        }
        let token = book.enter(draft);
        record(encoder, dispatches, token);
        drop(book);
        if let Some(arena) = arena {
            self.arena = arena;
        }
        Ok(added)
    }

    /// Where the words of a sequence lie, heads outermost and keys before values: (side, byte in
    /// the arena, byte of all of them in a row).
    fn spans(
        &self,
        arena: &Arena,
        held: &Held,
        words: [usize; 2],
    ) -> impl Iterator<Item = (usize, u64, u64)> + use<> {
        let (strides, regions) = (arena.strides, held.regions());
        (0..2 * self.kv_heads()).map(move |index| {
            let (head, side) = (index / 2, index % 2);
            let packed = head * (words[0] + words[1]) + side * words[0];
            (side, 4 * (head * strides[side] + regions[side]) as u64, 4 * packed as u64)
        })
    }

    /// A buffer to copy these words from.
    fn upload(&self, words: &[u32]) -> Result<wgpu::Buffer> {
        let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer =
            self.context.create_buffer("prflash restored sequence", 4 * words.len() as u64, usage)?;
        let bytes: &[u8] = bytemuck::cast_slice(words);
        self.context.capture(|| self.context.queue().write_buffer(&buffer, 0, bytes))?;
        Ok(buffer)
    }
}
