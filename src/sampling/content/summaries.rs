//! What is known of keys without reading them: extremes and means by groups of tokens.

use crate::error::{Result, ensure};
use crate::limits::{MAX_HEAD_DIM, MAX_HEADS, MAX_LEN, at_most};

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
    len: usize,
    heads: Vec<Head>,
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
}

impl KeySummaries {
    /// Of no tokens yet, in groups of `group` tokens.
    ///
    /// # Errors
    /// Invalid argument (`kv_heads`, `head_dim`, `group`) if one of them is 0; too large past
    /// [`MAX_HEADS`], [`MAX_HEAD_DIM`] and [`MAX_LEN`].
    pub fn new(kv_heads: usize, head_dim: usize, group: usize) -> Result<Self> {
        ensure!(kv_heads >= 1, "kv_heads", "expected at least 1, got 0");
        ensure!(head_dim >= 1, "head_dim", "expected at least 1 channel, got 0");
        ensure!(group >= 1, "group", "expected at least 1 token, got 0");
        at_most("kv_heads", kv_heads, MAX_HEADS)?;
        at_most("head_dim", head_dim, MAX_HEAD_DIM)?;
        at_most("group", group, MAX_LEN)?;
        Ok(Self { head_dim, group, len: 0, heads: vec![Head::default(); kv_heads] })
    }

    /// Appends the keys of further tokens, `[kv_heads, tokens, head_dim]`. The same as all of them
    /// at once.
    ///
    /// # Errors
    /// Invalid argument (`k`) unless these are whole tokens of finite numbers; too large past
    /// [`MAX_LEN`] tokens. Nothing is appended then.
    pub fn append(&mut self, k: &[f32]) -> Result<()> {
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
        Self { head_dim, group, len, heads: extremes.map(head).collect() }
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

    /// Groups, the last of them maybe not full.
    pub fn groups(&self) -> usize {
        self.len.div_ceil(self.group)
    }

    /// Whether means are known beside the extremes.
    pub fn has_means(&self) -> bool {
        self.heads.iter().all(|head| head.sums.len() == head.least.len())
    }

    /// The bytes of the extremes of one block in f16 for one key/value head: what choosing costs in
    /// reading.
    pub fn bytes_per_block(&self, block_size: usize) -> u64 {
        (block_size.div_ceil(self.group) as u64).saturating_mul(self.head_dim as u64 * 4)
    }

    /// A group of a head.
    pub(crate) fn group_of(&self, head: usize, group: usize) -> Group<'_> {
        let (head, at) = (&self.heads[head], group * self.head_dim);
        let of = |numbers| -> &[f32] { &Vec::as_slice(numbers)[at..at + self.head_dim] };
        let tokens = (self.len - group * self.group).min(self.group);
        let sums = (head.sums.len() == head.least.len()).then(|| (of(&head.sums), tokens));
        Group { least: of(&head.least), largest: of(&head.largest), sums }
    }
}

impl Head {
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
