//! What is known of keys without reading them: extremes and means by groups of tokens.

use super::packed;
use crate::error::{Result, ensure};
use crate::limits::{MAX_HEADS, MAX_LEN, MAX_PACKED_DIM, at_most};

/// Tokens of a group unless chosen otherwise: those of a staircase cache's groups.
pub const DEFAULT_GROUP: usize = 32;

/// The keys of one sequence, by key/value head and group of consecutive tokens: the least and the
/// largest number of every channel, as the pages of Quest have them (arXiv 2406.10774), and where
/// they are known the means.
///
/// Keys are those that scores see: rotated, where attention rotates them
/// ([`Attention::summarize`](crate::Attention::summarize) does that, and a
/// [`HostCache`](crate::cache::HostCache::summarize) has them so). Groups of one token make every
/// estimate exact.
///
/// Memory: 8 bytes for every group and channel, 12 with means.
#[derive(Clone, Debug, PartialEq)]
pub struct KeySummaries {
    head_dim: usize,
    group: usize,
    /// Tokens, of which the last `unknown` are in no group.
    len: usize,
    unknown: usize,
    heads: Vec<Head>,
    /// The same in 8 bits, where that is what estimates read. Means in place of sums.
    rounded: Option<Vec<Head>>,
}

/// The groups of one head behind each other, a number for each channel.
#[derive(Clone, Debug, Default, PartialEq)]
struct Head {
    least: Vec<f32>,
    largest: Vec<f32>,
    /// Sums of the tokens, within what f32 has; empty where means aren't known.
    sums: Vec<f32>,
}

/// A group of one head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group<'a> {
    pub(crate) least: &'a [f32],
    pub(crate) largest: &'a [f32],
    /// Sums of the tokens, and how many these are; none where they aren't known.
    pub(crate) sums: Option<(&'a [f32], usize)>,
    /// Whether the extremes are as far from the mean on both sides as the farther one of the two
    /// is.
    pub(crate) symmetric: bool,
}

impl Group<'_> {
    /// Whether it has no tokens: its least number is above the largest.
    pub(crate) fn is_empty(&self) -> bool {
        self.least.iter().zip(self.largest).any(|(least, largest)| least > largest)
    }
}

impl KeySummaries {
    /// Of no tokens yet, in groups of `group` tokens.
    ///
    /// # Errors
    /// Invalid argument (`kv_heads`, `head_dim`, `group`) if one of them is 0; too large past
    /// [`MAX_HEADS`], [`MAX_PACKED_DIM`] and [`MAX_LEN`].
    pub fn new(kv_heads: usize, head_dim: usize, group: usize) -> Result<Self> {
        ensure!(kv_heads >= 1, "kv_heads", "expected at least 1, got 0");
        ensure!(head_dim >= 1, "head_dim", "expected at least 1 channel, got 0");
        ensure!(group >= 1, "group", "expected at least 1 token, got 0");
        at_most("kv_heads", kv_heads, MAX_HEADS)?;
        at_most("head_dim", head_dim, MAX_PACKED_DIM)?;
        at_most("group", group, MAX_LEN)?;
        Ok(Self {
            head_dim,
            group,
            len: 0,
            unknown: 0,
            heads: vec![Head::default(); kv_heads],
            rounded: None,
        })
    }

    /// The same in 8 bits: of each channel the mean of the group, and how far from it the farthest
    /// key is, with a scale for each of both. That is half the bytes of extremes in f16.
    ///
    /// Distances are rounded up, so that no key is farther: bounds stay bounds. Where means aren't
    /// known (in a cache), the middle of the extremes takes their place.
    pub fn with_8_bits(mut self) -> Self {
        self.rounded = Some(vec![Head::default(); self.heads.len()]);
        self.round(0);
        self
    }

    /// Whether estimates read numbers of 8 bits.
    pub fn has_8_bits(&self) -> bool {
        self.rounded.is_some()
    }

    /// Rounds the groups from that of token `first` on, which may have changed.
    fn round(&mut self, first: usize) {
        let Some(mut rounded) = self.rounded.take() else { return };
        let (first, dim) = (first / self.group, self.head_dim);
        for (index, head) in rounded.iter_mut().enumerate() {
            head.truncate(first * dim);
            for group in first..self.groups() {
                head.push_rounded(&self.exact(index, group));
            }
        }
        self.rounded = Some(rounded);
    }

    /// Appends the keys of further tokens, `[kv_heads, tokens, head_dim]`. The same as all of them
    /// at once.
    ///
    /// # Errors
    /// Invalid argument (`k`) unless these are whole tokens of finite numbers, or behind tokens of
    /// which nothing is known; too large past [`MAX_LEN`] tokens. Nothing is appended then.
    pub fn append(&mut self, k: &[f32]) -> Result<()> {
        let unknown = self.unknown;
        ensure!(unknown == 0, "k", "expected none behind {unknown} tokens that a cache keeps precise");
        let row = self.heads.len() * self.head_dim;
        ensure!(k.len().is_multiple_of(row), "k", "expected a multiple of {row} numbers, got {}", k.len());
        if let Some(index) = k.iter().position(|x| !x.is_finite()) {
            let got = k[index];
            ensure!(got.is_finite(), "k", "expected finite numbers, got {got} at index {index}");
        }
        let tokens = k.len() / row;
        at_most("k", self.len + tokens, MAX_LEN)?;
        for (head, keys) in self.heads.iter_mut().zip(k.chunks(tokens.max(1) * self.head_dim)) {
            for (token, key) in keys.chunks_exact(self.head_dim).enumerate() {
                head.push(key, (self.len + token).is_multiple_of(self.group));
            }
        }
        self.len += tokens;
        self.round(self.len - tokens);
        Ok(())
    }

    /// Of extremes that are known: `extremes` has for each head the (least, largest) of every group
    /// and channel; a least number above the largest stands for a group without tokens.
    pub(crate) fn from_extremes(
        head_dim: usize,
        group: usize,
        len: usize,
        extremes: impl Iterator<Item = Vec<(f32, f32)>>,
    ) -> Self {
        let head = |extremes: Vec<(f32, f32)>| {
            let (least, largest) = extremes.into_iter().unzip();
            Head { least, largest, sums: Vec::new() }
        };
        Self { head_dim, group, len, unknown: 0, heads: extremes.map(head).collect(), rounded: None }
    }

    /// Of words in 8 bits: `heads` has for each head those of every group of the first `known`
    /// tokens, for `channels` channels of which the first `head_dim` count; no words for groups
    /// without tokens.
    pub(crate) fn from_packed<'a>(
        head_dim: usize,
        channels: usize,
        group: usize,
        known: usize,
        len: usize,
        heads: impl Iterator<Item = Vec<&'a [u32]>>,
    ) -> Self {
        let head = |groups: Vec<&[u32]>| {
            let mut head = Head::default();
            groups.into_iter().for_each(|words| head.push_packed(words, channels, head_dim));
            head
        };
        let rounded: Vec<Head> = heads.map(head).collect();
        let exact = |head: &Head| {
            let sums = head.sums.iter().map(|mean| mean * group as f32).collect();
            Head { sums, ..head.clone() }
        };
        let heads = rounded.iter().map(exact).collect();
        Self { head_dim, group, len, unknown: len - known, heads, rounded: Some(rounded) }
    }

    /// Key/value heads.
    pub fn kv_heads(&self) -> usize {
        self.heads.len()
    }

    /// Channels of a key.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Tokens of a group. The last one may have fewer.
    pub fn group(&self) -> usize {
        self.group
    }

    /// Tokens.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens that groups tell of: the first ones. Of a cache that stores summaries these are the
    /// tokens that have left the residual; of others, all.
    pub fn known(&self) -> usize {
        self.len - self.unknown
    }

    /// Groups, the last of them maybe not full.
    pub fn groups(&self) -> usize {
        self.known().div_ceil(self.group)
    }

    /// Whether means are known beside the extremes.
    pub fn has_means(&self) -> bool {
        self.heads.iter().all(|head| head.sums.len() == head.least.len())
    }

    /// The bytes of one group of one key/value head: extremes in f16, with means in f16 where these
    /// are known; in 8 bits two numbers of each channel, and two scales in f32.
    pub fn bytes_per_group(&self) -> u64 {
        let numbers = if self.has_means() { 3 } else { 2 };
        let dim = self.head_dim as u64;
        if self.has_8_bits() { 2 * dim + 8 } else { 2 * numbers * dim }
    }

    /// The bytes of one block for one key/value head: what choosing costs in reading.
    pub fn bytes_per_block(&self, block_size: usize) -> u64 {
        (block_size.div_ceil(self.group) as u64).saturating_mul(self.bytes_per_group())
    }

    /// Whether the numbers in 8 bits that estimates read are another's, bit for bit. Not where
    /// either has none.
    pub fn same_words(&self, other: &Self) -> bool {
        let sizes = |keys: &Self| (keys.head_dim, keys.group, keys.len);
        self.rounded.is_some() && self.rounded == other.rounded && sizes(self) == sizes(other)
    }

    /// A group of a head, as estimates read it.
    pub(crate) fn group_of(&self, head: usize, group: usize) -> Group<'_> {
        match &self.rounded {
            None => self.exact(head, group),
            Some(rounded) => Group { symmetric: true, ..rounded[head].group(group, self.head_dim, 1) },
        }
    }

    fn exact(&self, head: usize, group: usize) -> Group<'_> {
        let tokens = (self.known() - group * self.group).min(self.group);
        self.heads[head].group(group, self.head_dim, tokens)
    }
}

impl Head {
    fn group(&self, group: usize, dim: usize, tokens: usize) -> Group<'_> {
        let range = group * dim..(group + 1) * dim;
        let sums = (self.sums.len() == self.least.len()).then(|| (&self.sums[range.clone()], tokens));
        Group { least: &self.least[range.clone()], largest: &self.largest[range], sums, symmetric: false }
    }

    fn truncate(&mut self, numbers: usize) {
        self.least.truncate(numbers);
        self.largest.truncate(numbers);
        self.sums.truncate(numbers);
    }

    /// One more group, in 8 bits.
    fn push_rounded(&mut self, group: &Group<'_>) {
        if group.is_empty() {
            self.least.extend(group.least);
            self.largest.extend(group.largest);
            self.sums.extend(group.least.iter().map(|_| 0.0));
            return;
        }
        let packed = match group.sums {
            Some((sums, tokens)) => packed::pack(group.least, group.largest, sums, tokens),
            None => {
                let extremes = group.least.iter().zip(group.largest);
                let middles: Vec<f32> =
                    extremes.map(|(least, largest)| 0.5 * least + 0.5 * largest).collect();
                packed::pack(group.least, group.largest, &middles, 1)
            }
        };
        self.push_packed(&packed, group.least.len(), group.least.len());
    }

    /// One more group, from its words for so many channels, of which the first `dim` count; without
    /// words it has no tokens.
    fn push_packed(&mut self, words: &[u32], channels: usize, dim: usize) {
        if words.is_empty() {
            let fill = |numbers: &mut Vec<f32>, x: f32| numbers.resize(numbers.len() + dim, x);
            fill(&mut self.least, f32::INFINITY);
            fill(&mut self.largest, f32::NEG_INFINITY);
            fill(&mut self.sums, 0.0);
            return;
        }
        let (mut means, mut reaches) = packed::unpack(words, channels);
        means.truncate(dim);
        reaches.truncate(dim);
        let both = || means.iter().zip(&reaches);
        self.least.extend(both().map(|(mean, reach)| mean - reach));
        self.largest.extend(both().map(|(mean, reach)| mean + reach));
        self.sums.extend(&means);
    }

    fn push(&mut self, key: &[f32], begins: bool) {
        // A cache gives the extremes of earlier tokens without means.
        let means = self.sums.len() == self.least.len();
        if begins {
            self.least.extend(key);
            self.largest.extend(key);
            self.sums.extend(key.iter().filter(|_| means));
            return;
        }
        let at = self.least.len() - key.len();
        for (c, &x) in key.iter().enumerate() {
            self.least[at + c] = self.least[at + c].min(x);
            self.largest[at + c] = self.largest[at + c].max(x);
            if means {
                // Means of the largest numbers are such numbers, not infinite.
                self.sums[at + c] = (self.sums[at + c] + x).clamp(f32::MIN, f32::MAX);
            }
        }
    }
}
