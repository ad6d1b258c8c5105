//! The cache in host memory, in the words that a GPU holds.

use std::ops::Range;

use half::f16;

use super::file;
use super::form::CacheForm;
use super::ladder::Side;
use super::pack::{Element, PackLayout};
use super::quantize::is_finite;
use super::rotated::choose;
use super::sequence::{Sequence, Store, StoredKeys};
use super::sequence_table::{SequenceId, SequenceTable};
use super::staircase::{Aging, Staircase};
use super::standing::Standing;
use super::words::{half_at, padded};
use crate::error::{Result, ensure};
use crate::shape::Shape;

/// A staircase KV cache of many sequences in host memory: the reference for the one on the GPU.
///
/// Per sequence and key/value head it holds, for keys and for values: rows of the sinks, a
/// [pack](PackLayout) for every segment that has left the residual, and the rows of the residual.
/// It takes every step as it happens, so appending a chunk leaves the very words that appending its
/// tokens one by one does.
#[derive(Clone, Debug)]
pub struct HostCache {
    pub(super) form: CacheForm,
    pub(super) sequences: SequenceTable<Sequence>,
}

/// One token of one head as a cache holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its index in the sequence, dropped tokens counted.
    pub token: usize,
    /// The key: `head_dim` channels.
    pub key: Vec<f32>,
    /// The value: `value_dim` channels.
    pub value: Vec<f32>,
}

impl HostCache {
    /// Without sequences, for the key/value heads and channels of `shape` (its lengths, batch and
    /// query heads don't matter).
    ///
    /// # Errors
    /// Invalid argument (`group`) unless the staircase's group divides the value channels padded to
    /// a multiple of 32; too large where the numbers of a segment are past 32-bit indices.
    pub fn new(staircase: Staircase, shape: &Shape, keys: StoredKeys) -> Result<Self> {
        Ok(Self::of(CacheForm::new(staircase, shape, keys)?))
    }

    /// A cache without sequences.
    pub(super) fn of(form: CacheForm) -> Self {
        Self { form, sequences: SequenceTable::default() }
    }

    /// The staircase, which says at how many bits tokens are stored.
    pub fn staircase(&self) -> &Staircase {
        &self.form.staircase
    }

    /// Key/value heads.
    pub fn kv_heads(&self) -> usize {
        self.form.kv_heads()
    }

    /// Channels of a key or of a value.
    pub fn dim(&self, side: Side) -> usize {
        self.form.dim(side)
    }

    /// Whether keys are stored before or after rotation.
    pub fn stored_keys(&self) -> StoredKeys {
        self.form.keys
    }

    /// One more sequence, empty. Numbers of removed ones are used again.
    pub fn add(&mut self) -> SequenceId {
        let stores = vec![Store::default(); 2 * self.kv_heads()];
        self.insert(Sequence { stores, ..Sequence::default() })
    }

    pub(super) fn insert(&mut self, sequence: Sequence) -> SequenceId {
        self.sequences.add(sequence)
    }

    /// Removes a sequence and what it holds.
    ///
    /// # Errors
    /// Invalid argument if there is no such sequence.
    pub fn remove(&mut self, sequence: SequenceId) -> Result<()> {
        self.sequences.remove(sequence).map(drop)
    }

    /// The sequences there are.
    pub fn sequences(&self) -> impl Iterator<Item = SequenceId> + '_ {
        self.sequences.ids()
    }

    /// Where the tokens of a sequence stand.
    ///
    /// # Errors
    /// Invalid argument if there is no such sequence.
    pub fn standing(&self, sequence: SequenceId) -> Result<Standing<'_>> {
        let held = self.sequences.get(sequence)?;
        Ok(self.form.staircase.standing_at(held.len, held.segments))
    }

    /// Tokens of a sequence, dropped ones included.
    ///
    /// # Errors
    /// Invalid argument if there is no such sequence.
    pub fn len(&self, sequence: SequenceId) -> Result<usize> {
        Ok(self.sequences.get(sequence)?.len)
    }

    /// Appends tokens: `k` is `[kv_heads, tokens, head_dim]`, `v` is `[kv_heads, tokens,
    /// value_dim]`. Numbers are rounded to f16.
    ///
    /// # Errors
    /// Invalid argument (`k`, `v`) if they hold different numbers of whole tokens, or a number that
    /// is NaN, infinite or past f16's ±65,504; (`sequence`) if there is none such; too large past
    /// 32-bit indices. Nothing has been written then.
    pub fn append(&mut self, sequence: SequenceId, k: &[f32], v: &[f32]) -> Result<()> {
        let heads = self.kv_heads();
        let (key_row, value_row) = (heads * self.dim(Side::Keys), heads * self.dim(Side::Values));
        let tokens = k.len() / key_row;
        ensure!(
            k.len() == tokens * key_row,
            "k",
            "expected a multiple of {key_row} numbers, got {}",
            k.len()
        );
        ensure!(
            tokens.checked_mul(value_row) == Some(v.len()),
            "v",
            "expected {tokens} tokens of {value_row} numbers, as many as in k, got {}",
            v.len()
        );
        let len = self.sequences.get(sequence)?.len;
        self.form.shape.with_kv_len(len.saturating_add(tokens))?;
        let halves = [halves("k", k)?, halves("v", v)?];

        let staircase = self.form.staircase.clone();
        let dims = Side::ALL.map(|side| self.dim(side));
        let held = self.sequences.get_mut(sequence)?;
        let sinks = staircase.sinks().saturating_sub(len).min(tokens);
        for (index, store) in held.stores.iter_mut().enumerate() {
            let (head, side) = (index / 2, index % 2);
            let dim = dims[side];
            for (token, row) in
                halves[side][head * tokens * dim..][..tokens * dim].chunks_exact(dim).enumerate()
            {
                let words = (0..padded(dim) / 2).map(|word| {
                    let half = |channel| u32::from(row.get(channel).copied().unwrap_or(0));
                    half(2 * word) | half(2 * word + 1) << 16
                });
                store.residual.extend(words.clone());
                if token < sinks {
                    store.sinks.extend(words);
                }
            }
        }
        held.len += tokens;
        let segments = staircase.segments_after(held.len);
        self.age(sequence, segments)
    }

    /// Segments leave the residual until so many have.
    fn age(&mut self, sequence: SequenceId, segments: usize) -> Result<()> {
        let staircase = self.form.staircase.clone();
        let dims = Side::ALL.map(|side| self.dim(side));
        let layouts = self.form.layouts()?;
        let held = self.sequences.get_mut(sequence)?;
        while held.segments < segments {
            let aging = staircase.aging(held.segments);
            for head in held.stores.chunks_exact_mut(2) {
                let fine = fine_tokens(&staircase, aging.leaves, head, dims);
                for (index, store) in head.iter_mut().enumerate() {
                    store.age(&staircase, &aging, Side::ALL[index], layouts[index], &fine);
                }
            }
            held.segments += 1;
        }
        Ok(())
    }

    /// Drops the oldest segments that a sequence still holds, but for the copies of its sinks,
    /// before their time: a context shift. Younger segments leave the residual and step down as if
    /// as many tokens more had come, and the tokens that stay keep their numbers.
    ///
    /// A staircase whose last rung has 0 bits ([`Staircase::streaming`]) drops segments by itself
    /// as tokens come; this makes room for attention at once.
    ///
    /// ```
    /// use prflash::Shape;
    /// use prflash::cache::{HostCache, StoredKeys, Staircase};
    /// let shape = Shape::new(1, 1, 0, 64)?;
    /// let staircase = Staircase::streaming(512)?; // 4 sinks, the newest 512 to 639 tokens
    /// let mut cache = HostCache::new(staircase, &shape, StoredKeys::AfterRotation)?;
    /// let (sequence, rows) = (cache.add(), vec![0.5; 600 * 64]);
    /// cache.append(sequence, &rows, &rows)?;
    /// cache.drop_oldest(sequence, 3)?;
    /// assert_eq!(cache.standing(sequence)?.dropped(), 4..384);
    /// # Ok::<(), prflash::Error>(())
    /// ```
    ///
    /// # Errors
    /// Invalid argument: (`staircase`) whose last rung keeps tokens, since its packs lie one behind
    /// the other for good; (`sequence`) if there is none such; (`segments`) if it doesn't hold that
    /// many whole ones beside those that the rungs before the last have.
    pub fn drop_oldest(&mut self, sequence: SequenceId, segments: usize) -> Result<()> {
        let segments = self.standing(sequence)?.segments_to_drop(segments)?;
        self.age(sequence, segments)
    }

    /// Forgets the tokens of a sequence from `len` on.
    ///
    /// # Errors
    /// Invalid argument (`len`) if the sequence is shorter, or the first forgotten token has left
    /// the residual: as many tokens as the staircase's residual can always be forgotten after the
    /// last append.
    pub fn truncate(&mut self, sequence: SequenceId, len: usize) -> Result<()> {
        let residual = self.standing(sequence)?.residual();
        check_truncation(&residual, len)?;
        let sinks = self.form.staircase.sinks().min(len);
        let rows = Side::ALL.map(|side| padded(self.dim(side)) / 2);
        let held = self.sequences.get_mut(sequence)?;
        held.len = len;
        for (index, store) in held.stores.iter_mut().enumerate() {
            store.residual.truncate((len - residual.start) * rows[index % 2]);
            store.sinks.truncate(sinks * rows[index % 2]);
        }
        Ok(())
    }

    /// Adds a sequence that begins with the first `len` tokens of another. From then on neither
    /// knows of the other.
    ///
    /// ```
    /// use prflash::Shape;
    /// use prflash::cache::{HostCache, StoredKeys, Staircase};
    /// let shape = Shape::new(1, 1, 0, 64)?;
    /// let mut cache = HostCache::new(Staircase::recommended(), &shape, StoredKeys::AfterRotation)?;
    /// let (prompt, rows) = (cache.add(), vec![0.5; 200 * 64]);
    /// cache.append(prompt, &rows, &rows)?;
    /// let answer = cache.fork(prompt, 200)?;
    /// cache.append(answer, &rows[..64], &rows[..64])?;
    /// assert_eq!((cache.len(prompt)?, cache.len(answer)?), (200, 201));
    /// # Ok::<(), prflash::Error>(())
    /// ```
    ///
    /// # Errors
    /// Invalid argument: (`sequence`) if there is none such; (`len`) if it is shorter, or the first
    /// token that is left out has left the residual, as for [`truncate`](HostCache::truncate): what
    /// stepped down can't be cut within a segment.
    pub fn fork(&mut self, sequence: SequenceId, len: usize) -> Result<SequenceId> {
        check_truncation(&self.standing(sequence)?.residual(), len)?;
        let copy = self.sequences.get(sequence)?.clone();
        let copy = self.insert(copy);
        self.truncate(copy, len)?;
        Ok(copy)
    }

    /// The tokens that one head of a sequence holds, oldest first, as f32.
    ///
    /// # Errors
    /// Invalid argument if there is no such sequence or head.
    pub fn rows(&self, sequence: SequenceId, head: usize) -> Result<impl Iterator<Item = Row> + '_> {
        ensure!(head < self.kv_heads(), "head", "expected one below {}, got {head}", self.kv_heads());
        let (standing, held) = (self.standing(sequence)?, self.sequences.get(sequence)?);
        let layouts = self.form.layouts()?;
        let dropped = standing.dropped();
        let row = move |token, side: Side| {
            let mut row = Vec::with_capacity(self.dim(side));
            let store = &held.stores[2 * head + side as usize];
            store.read(&standing, side, layouts[side as usize], token, self.dim(side), |x| {
                row.push(x.to_f32())
            });
            row
        };
        let live = (0..standing.len()).filter(move |token| !dropped.contains(token));
        Ok(live.map(move |token| Row { token, key: row(token, Side::Keys), value: row(token, Side::Values) }))
    }

    /// The keys or values of a sequence as the oracle reads them, `[kv_heads, len, dim]`; 0 for
    /// dropped tokens.
    pub(crate) fn exact(&self, sequence: SequenceId, side: Side) -> Result<Vec<f64>> {
        let (standing, held) = (self.standing(sequence)?, self.sequences.get(sequence)?);
        let (layout, dim) = (self.form.layouts()?[side as usize], self.dim(side));
        let mut rows = Vec::with_capacity(self.kv_heads() * held.len * dim);
        for head in 0..self.kv_heads() {
            let store = &held.stores[2 * head + side as usize];
            for token in 0..held.len {
                store.read(&standing, side, layout, token, dim, |x| rows.push(x.to_f64()));
                rows.resize((head * held.len + token + 1) * dim, 0.0);
            }
        }
        Ok(rows)
    }

    /// Where the numbers of a pack lie, at 16 bits.
    #[cfg(feature = "native")]
    pub(super) fn layout(&self, side: Side) -> Result<PackLayout> {
        Ok(self.form.layouts()?[side as usize])
    }

    /// What is held of one head.
    #[cfg(feature = "native")]
    pub(super) fn store(&self, sequence: SequenceId, side: Side, head: usize) -> Result<&Store> {
        Ok(&self.sequences.get(sequence)?.stores[2 * head + side as usize])
    }

    /// The words of one segment of one head ([`PackLayout`]); `None` while it is in the residual
    /// and after it was dropped.
    ///
    /// # Errors
    /// Invalid argument if there is no such sequence or head.
    pub fn pack(
        &self,
        sequence: SequenceId,
        side: Side,
        head: usize,
        segment: usize,
    ) -> Result<Option<&[u32]>> {
        ensure!(head < self.kv_heads(), "head", "expected one below {}, got {head}", self.kv_heads());
        let held = self.sequences.get(sequence)?;
        let store = &held.stores[2 * head + side as usize];
        let index = segment.saturating_add(store.packs.len()).checked_sub(held.segments);
        Ok(index.and_then(|index| store.packs.get(index)).map(Vec::as_slice))
    }

    /// Bytes of the words that are held, counted: always what [`Standing::memory`] says, summed
    /// over the sequences.
    pub fn live_bytes(&self) -> u64 {
        let words = |store: &Store| {
            store.sinks.len() + store.residual.len() + store.packs.iter().map(Vec::len).sum::<usize>()
        };
        let stores = self.sequences.iter().flat_map(|held| &held.stores);
        stores.map(|store| 4 * words(store) as u64).sum()
    }

    /// A sequence as bytes, with the sizes, the staircase, a version and a checksum: to be kept on
    /// disk and [restored](HostCache::restore).
    ///
    /// The file is little-endian 32-bit words: `"prflash\0"`; version 1, 2 with summaries, or 3
    /// with rotated codes; bytes of the whole file (two words); kv_heads, head_dim, value_dim; 0
    /// for keys before rotation, 1 for keys after; S, G, sinks, W (0: equal to S); in version 2 the
    /// tokens of a group with a summary; in version 3 the codec (1: rotated) and its fine tokens a
    /// segment; the number of rungs of keys and of values, and for each rung its bits and segments
    /// (0 on the last); tokens and segments that have left the residual; then per head, keys before
    /// values, the rows of the sinks, the packs from the oldest on, the rows of the residual; last
    /// the 64-bit FNV-1a hash of all bytes before it.
    ///
    /// # Errors
    /// Invalid argument if there is no such sequence.
    pub fn save(&self, sequence: SequenceId) -> Result<Vec<u8>> {
        Ok(file::write(&self.form, self.sequences.get(sequence)?))
    }

    /// Adds a sequence from [saved](HostCache::save) bytes.
    ///
    /// # Errors
    /// [Corrupt](crate::Error::is_corrupt) if the bytes are cut off, changed or not of a cache;
    /// [unknown version](crate::Error::is_unknown_version); invalid argument (`bytes`) if they are
    /// of another staircase, of other sizes, or of keys stored otherwise. Nothing is added then.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<SequenceId> {
        let sequence = file::read_same(&self.form, bytes)?;
        Ok(self.insert(sequence))
    }

    /// A cache with one sequence ([`SequenceId::FIRST`]) from [saved](HostCache::save) bytes.
    ///
    /// # Errors
    /// As [`restore`](HostCache::restore).
    pub fn open(bytes: &[u8]) -> Result<Self> {
        let (form, sequence) = file::read(bytes)?;
        let mut cache = Self::of(form);
        cache.insert(sequence);
        Ok(cache)
    }
}

/// Refuses to forget more than what is in the residual.
pub(super) fn check_truncation(residual: &Range<usize>, len: usize) -> Result<()> {
    ensure!(
        (residual.start..=residual.end).contains(&len),
        "len",
        "expected {} to {} (what is in the residual can be forgotten), got {len}",
        residual.start,
        residual.end
    );
    Ok(())
}

/// f16 bits of finite numbers.
fn halves(argument: &'static str, values: &[f32]) -> Result<Vec<u16>> {
    let mut halves = Vec::with_capacity(values.len());
    for (index, &value) in values.iter().enumerate() {
        let half = f16::from_f32(value).to_bits();
        ensure!(
            is_finite(half),
            argument,
            "expected numbers within f16's ±65504, got {value} at index {index}"
        );
        halves.push(half);
    }
    Ok(halves)
}

/// The fine tokens of a segment that leaves the residual, from the values of its head.
fn fine_tokens(staircase: &Staircase, segment: usize, head: &[Store], dims: [usize; 2]) -> Vec<usize> {
    let (count, length) = (staircase.codec().fine_tokens(), staircase.segment());
    if count == 0 {
        return Vec::new();
    }
    let values = &head[Side::Values as usize].residual;
    choose(values, dims[Side::Values as usize], sinks_in(staircase, segment)..length, count)
}

/// How many tokens of a segment, from its first on, are sinks.
fn sinks_in(staircase: &Staircase, segment: usize) -> usize {
    let length = staircase.segment();
    staircase.sinks().saturating_sub(segment * length).min(length)
}

impl Store {
    /// Takes the oldest segment of the residual to the first rung, and others down by one.
    fn age(&mut self, staircase: &Staircase, aging: &Aging, side: Side, layout: PackLayout, fine: &[usize]) {
        let rungs = staircase.ladder(side).rungs();
        let sinks = sinks_in(staircase, aging.leaves);
        let pack = layout.with_bits(rungs[0].bits).quantize(&self.residual, sinks, fine);
        self.residual.drain(..layout.code_words());
        self.packs.push_back(pack);
        for step in aging.steps(side) {
            // The newest pack is that of the segment that leaves.
            let age = aging.leaves - step.segment;
            let index = self.packs.len() - 1 - age;
            let layout = layout.with_bits(rungs[step.from].bits);
            let sinks = sinks_in(staircase, step.segment);
            self.packs[index] = layout.step_down(&self.packs[index], rungs[step.to].bits, sinks);
        }
        self.packs.retain(|pack| !pack.is_empty());
    }

    /// The channels of one token; none if it was dropped.
    pub(super) fn read(
        &self,
        standing: &Standing<'_>,
        side: Side,
        layout: PackLayout,
        token: usize,
        dim: usize,
        mut visit: impl FnMut(Element),
    ) {
        let mut row = |words: &[u32], row: usize| {
            (0..dim).for_each(|c| visit(Element::Half(half_at(words, row * padded(dim) + c))));
        };
        let (segment, length) = (token / layout.segment(), layout.segment());
        if standing.sinks().contains(&token) {
            row(&self.sinks, token);
        } else if standing.residual().contains(&token) {
            row(&self.residual, token - standing.residual().start);
        } else if let Some(index) = (segment + self.packs.len()).checked_sub(standing.segments()) {
            let layout = layout.with_bits(standing.bits(side, token));
            layout.elements(&self.packs[index], token % length, visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_argument() {
        let shape = Shape::new(4, 2, 7, 64).unwrap();
        let new = |staircase: Staircase, shape| HostCache::new(staircase, shape, StoredKeys::AfterRotation);
        let wide = Staircase::paper().with_group(128).unwrap();
        assert_eq!(new(wide, &shape).unwrap_err().argument(), Some("group"));
        let mut cache = new(Staircase::paper(), &shape).unwrap();
        let sequence = cache.add();
        let mut refused =
            |k: &[f32], v: &[f32]| cache.append(sequence, k, v).unwrap_err().argument().unwrap();
        assert_eq!(refused(&[0.0; 127], &[0.0; 128]), "k");
        assert_eq!(refused(&[0.0; 128], &[0.0; 256]), "v");
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 65_520.0, 1e30] {
            let (mut k, zeros) = ([0.0; 256], [0.0; 256]);
            k[255] = bad;
            assert_eq!(refused(&k, &zeros), "k");
            assert_eq!(refused(&zeros, &k), "v");
        }
        assert_eq!((cache.len(sequence).unwrap(), cache.live_bytes()), (0, 0));
        assert_eq!(cache.append(SequenceId::new(9), &[], &[]).unwrap_err().argument(), Some("sequence"));
        assert_eq!(cache.truncate(sequence, 1).unwrap_err().argument(), Some("len"));
        assert_eq!(cache.rows(sequence, 2).err().unwrap().argument(), Some("head"));
        cache.remove(sequence).unwrap();
        assert_eq!(cache.remove(sequence).unwrap_err().argument(), Some("sequence"));
        assert_eq!(cache.add(), sequence);
    }
}
