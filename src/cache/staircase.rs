//! The staircase: at how many bits which token is stored.

use std::fmt;

use super::codec::Codec;
use super::ladder::{Ladder, Rung, Side};
use crate::error::{Result, ensure};
use crate::sampling::content::packed::MAX_GROUP;
use crate::shape::MAX_LEN;

/// At how many bits a KV cache stores which token: precise while young, in fewer bits as it ages
/// (arXiv 2410.18441's staircase adaptive quantization).
///
/// Tokens come in segments of S (default 128) from token 0 on. The newest W … W + S − 1 tokens (W
/// is the *residual*, default S) are f16; whenever W + S are there, the oldest segment of them
/// leaves the residual for the first rung of a [`Ladder`], one for keys and one for values, and
/// segments whose dwell ends step down. So after n tokens `m = max(0, ⌊(n − W)/S⌋)` segments have
/// left, and segment s has age `m − 1 − s`. The first `sinks` tokens (default 4) are kept as
/// precise copies too, for good: attention leans on them (StreamingLLM, arXiv 2309.17453).
///
/// Groups of G values (default 32) share their extremes: G tokens of a channel for keys, G channels
/// of a token for values (KIVI, arXiv 2402.02750); see [`quantize`](super::quantize). Another
/// [codec](Staircase::with_codec) has one scale a row in place of groups; see
/// [`rotated`](super::rotated).
///
/// ```
/// use prflash::Shape;
/// use prflash::cache::{Ladder, Side, Staircase};
/// let staircase = Staircase::new(Ladder::new(&[(8, 2)], 4)?, Ladder::new(&[(8, 2), (4, 6)], 2)?)?;
/// println!("{staircase}");
/// let standing = staircase.standing(4096);
/// assert_eq!(standing.residual(), 3968..4096);
/// assert_eq!((standing.bits(Side::Keys, 100), standing.bits(Side::Values, 100)), (4, 2));
/// assert_eq!(standing.bits(Side::Values, 0), 16); // a sink
/// let memory = standing.memory(&Shape::new(8, 1, 4096, 128)?);
/// assert!(memory.total() * 3 < 4096 * 2 * 128 * 2); // a third of f16
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "super::stored::Stored", into = "super::stored::Stored")
)]
pub struct Staircase {
    keys: Ladder,
    values: Ladder,
    segment: usize,
    group: usize,
    sinks: usize,
    residual: Option<usize>,
    summaries: Option<usize>,
    codec: Codec,
}

impl Staircase {
    /// A ladder for keys and one for values, with S = 128, G = 32, 4 sinks and W = S.
    ///
    /// # Errors
    /// Invalid argument (`values`) unless both ladders drop tokens at the same age or neither does.
    pub fn new(keys: Ladder, values: Ladder) -> Result<Self> {
        let dropped_at =
            |ladder: &Ladder| (ladder.last_bits() == 0).then(|| ladder.ends().last().unwrap_or(0));
        ensure!(
            dropped_at(&keys) == dropped_at(&values),
            "values",
            "expected values to be dropped when keys are, got keys {keys} and values {values}"
        );
        Ok(Self::of(keys, values))
    }

    const fn of(keys: Ladder, values: Ladder) -> Self {
        Self {
            keys,
            values,
            segment: 128,
            group: 32,
            sinks: 4,
            residual: None,
            summaries: None,
            codec: Codec::MinMax,
        }
    }

    /// The same with other ladders that drop no token.
    pub(super) fn with_ladders(&self, keys: Ladder, values: Ladder) -> Self {
        Self { keys, values, ..self.clone() }
    }

    /// The same with other ladders.
    ///
    /// # Errors
    /// As [`new`](Staircase::new) and [`with_codec`](Staircase::with_codec).
    pub(super) fn with_both_ladders(self, keys: Ladder, values: Ladder) -> Result<Self> {
        let Self { segment, group, sinks, residual, summaries, codec, .. } = self;
        Self { segment, group, sinks, residual, summaries, codec, ..Self::new(keys, values)? }.validated()
    }

    /// One ladder for both sides.
    fn both(rungs: Vec<Rung>) -> Self {
        Self::of(Ladder::of(rungs.clone()), Ladder::of(rungs))
    }

    /// The literal reading of arXiv 2410.18441: every width once, one segment on each but the last;
    /// keys 8 → 4, values 8 → 4 → 2, below the 16 bits of the residual.
    ///
    /// At long contexts that is almost all tail; see [`recommended`](Staircase::recommended).
    pub fn paper() -> Self {
        Self::of(
            Ladder::of(vec![Rung::on(8, 1), Rung::tail(4)]),
            Ladder::of(vec![Rung::on(8, 1), Rung::on(4, 1), Rung::tail(2)]),
        )
    }

    /// Dwells that grow with age, and keys in more bits than values: keys 8×2 → 4, values 8×2 →
    /// 4×16 → 2.
    ///
    /// Measured in the first 4,096 tokens of *Emma* and of *Persuasion*, every query reading the
    /// cache as it stands when tokens come one by one (`lab/results/staircase.csv`). Bytes are
    /// those of f16 over those held at the end, perplexity is against f32 keys and values:
    ///
    /// | | bytes | SmolLM2-135M: 24.99, 31.66 | Gemma 3 270M, all layers: 24.42 |
    /// | --- | --- | --- | --- |
    /// | keys 8, values 8×2 → 4 | 2.16 | +0.02%, +0.03% | |
    /// | keys 8×2 → 4, values 8×2 → 4 | 2.85 | +0.09%, −0.08% | |
    /// | [`kivi(4)`](Staircase::kivi) | 2.99 | −0.03%, −0.09% | +0.22% |
    /// | **keys 8×2 → 4, values 8×2 → 4×16 → 2** | 3.08 | +0.17%, −0.07% | +0.06% |
    /// | keys 8×2 → 4, values 8×2 → 4×4 → 2 | 3.31 | +0.51% | |
    /// | keys 4, values 2 | 3.64 | +1.30%, +0.48% | +1.42% |
    /// | [`kivi(2)`](Staircase::kivi) | 4.70 | +15.5% | +8.9% |
    ///
    /// Down to this one nothing is lost that one window could tell (±0.2%), and further down values
    /// in 2 bits start to cost; 2-bit keys cost far more. With length it goes to a quarter of f16's
    /// bytes, where `kivi(4)` stays at 3.2 times fewer, and more of the values are in 2 bits:
    /// expect up to what the row of keys 4, values 2 says. Longer contexts and larger models were
    /// not measured. More texts, passkeys and the error by age are in `lab/RESULTS.md`.
    pub fn recommended() -> Self {
        Self::of(
            Ladder::of(vec![Rung::on(8, 2), Rung::tail(4)]),
            Ladder::of(vec![Rung::on(8, 2), Rung::on(4, 16), Rung::tail(2)]),
        )
    }

    /// [Rotated](super::rotated) codes at the ages of [`recommended`](Staircase::recommended): keys
    /// 8×4 → 4, values 8×4 → 3 in segments of 64 tokens with a fine one each, so that fewer tokens
    /// wait in the residual. It needs no calibration.
    ///
    /// What it was measured to hold and to lose beside the other presets is in `lab/RESULTS.md`
    /// (caches of few bits). Where a model's keys have channels that vary unequally, its weights
    /// should take in the factors of [`rotated::balance`](super::rotated::balance).
    pub fn recommended_rotated() -> Self {
        let ladders = Self::of(
            Ladder::of(vec![Rung::on(8, 4), Rung::tail(4)]),
            Ladder::of(vec![Rung::on(8, 4), Rung::tail(3)]),
        );
        Self { segment: 64, codec: Codec::Rotated { fine_tokens: 1 }, ..ladders }
    }

    /// KIVI (arXiv 2402.02750): a precise residual and one width, without sinks.
    ///
    /// # Errors
    /// Invalid argument (`bits`) unless 8, 4, 3 or 2.
    pub fn kivi(bits: u32) -> Result<Self> {
        ensure!(super::quantize::WIDTHS.contains(&bits), "bits", "expected 8, 4, 3 or 2, got {bits}");
        Ok(Self::both(vec![Rung::tail(bits)]).with_sinks(0))
    }

    /// StreamingLLM (arXiv 2309.17453): 4 sinks and the newest `window` … `window` + S − 1 tokens,
    /// all precise; the others are dropped.
    ///
    /// # Errors
    /// As [`with_residual`](Staircase::with_residual).
    pub fn streaming(window: usize) -> Result<Self> {
        Self::both(vec![Rung::tail(0)]).with_residual(window)
    }

    /// Every token in f16.
    pub fn plain() -> Self {
        Self::both(vec![Rung::tail(16)]).with_sinks(0)
    }

    /// The same with segments of another length S; the residual follows unless it was set.
    ///
    /// # Errors
    /// Invalid argument unless a positive multiple of G; too many tokens as in
    /// [`with_residual`](Staircase::with_residual).
    pub fn with_segment(self, segment: usize) -> Result<Self> {
        Self { segment, ..self }.validated()
    }

    /// The same with groups of another length G.
    ///
    /// # Errors
    /// Invalid argument unless a positive multiple of 32 (codes of a group then fill whole words at
    /// every width) that divides S.
    pub fn with_group(self, group: usize) -> Result<Self> {
        Self { group, ..self }.validated()
    }

    /// The same with other S and G at once.
    ///
    /// # Errors
    /// As [`with_segment`](Staircase::with_segment) and [`with_group`](Staircase::with_group).
    pub fn with_segment_and_group(self, segment: usize, group: usize) -> Result<Self> {
        Self { segment, group, ..self }.validated()
    }

    /// The same with another number of precise copies of the first tokens.
    pub fn with_sinks(self, sinks: usize) -> Self {
        // No sequence is longer.
        Self { sinks: sinks.min(MAX_LEN), ..self }
    }

    /// The same with another residual W, in tokens: at least the longest rollback
    /// ([`HostCache::truncate`](super::HostCache::truncate)).
    ///
    /// # Errors
    /// Invalid argument unless at least 1 and, with S, below 2³⁰.
    pub fn with_residual(self, residual: usize) -> Result<Self> {
        Self { residual: Some(residual), ..self }.validated()
    }

    /// The same with summaries of keys, which tell what is in tokens without reading them.
    ///
    /// For every `tokens` tokens of a segment, from when it leaves the residual until it is
    /// dropped, they have the mean of each channel and how far from it keys are, in 8 bits.
    /// Attention can then choose blocks by their content
    /// ([`sampling::content`](crate::sampling::content)); what is in the residual is always
    /// attended.
    ///
    /// They take `2·D' + 8` bytes of each group of tokens and key/value head. Caches whose keys
    /// are stored [before rotation](super::StoredKeys::BeforeRotation) refuse them: they would say
    /// nothing of scores.
    ///
    /// # Errors
    /// Invalid argument (`summaries`) unless 1 to 256 tokens that divide S.
    pub fn with_summaries(self, tokens: usize) -> Result<Self> {
        Self { summaries: Some(tokens), ..self }.validated()
    }

    /// The same with codes of another kind.
    ///
    /// # Errors
    /// For rotated codes, in whatever order a staircase is put together, invalid argument:
    /// (`codec`) with more than 32 fine tokens, or with fine tokens and a ladder that codes only
    /// after a rung of 16 bits (a longer residual does the same); (`segment`) with more than 1,024
    /// tokens of one.
    pub fn with_codec(self, codec: Codec) -> Result<Self> {
        Self { codec, ..self }.validated()
    }

    fn validated(self) -> Result<Self> {
        let Self { segment, group, .. } = self;
        let residual = self.residual();
        ensure!(
            group >= 1 && group.is_multiple_of(32),
            "group",
            "expected a positive multiple of 32 tokens, got {group}"
        );
        ensure!(
            segment >= 1 && segment.is_multiple_of(group) && segment < MAX_LEN,
            "segment",
            "expected a positive multiple of the group of {group} tokens below {MAX_LEN}, got {segment}"
        );
        ensure!(
            (1..MAX_LEN - segment).contains(&residual),
            "residual",
            "expected 1 to {} tokens, got {residual}",
            MAX_LEN - segment - 1
        );
        if let Some(tokens) = self.summaries {
            ensure!(
                (1..=MAX_GROUP).contains(&tokens) && segment.is_multiple_of(tokens),
                "summaries",
                "expected groups of 1 to {MAX_GROUP} tokens that divide segments of {segment}, got {tokens}"
            );
        }
        if let Codec::Rotated { fine_tokens } = self.codec {
            let (most, longest) = (Codec::MOST_EXACT, Codec::LONGEST_SEGMENT);
            ensure!(
                fine_tokens <= most,
                "codec",
                "expected at most {most} fine tokens a segment, got {fine_tokens}"
            );
            ensure!(
                segment <= longest,
                "segment",
                "expected at most {longest} tokens, whose sums rotated codes need in 32 bits, got {segment}"
            );
            let late = |ladder: &Ladder| matches!(ladder.rungs(), [Rung { bits: 16, .. }, next, ..] if next.bits > 0);
            ensure!(
                fine_tokens == 0 || !(late(&self.keys) || late(&self.values)),
                "codec",
                "expected tokens that leave the residual for codes, so that fine ones can be chosen, got keys \
                 {} and values {}",
                self.keys,
                self.values
            );
        }
        Ok(self)
    }

    /// How numbers become codes.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// The ladder of keys or values.
    pub fn ladder(&self, side: Side) -> &Ladder {
        match side {
            Side::Keys => &self.keys,
            Side::Values => &self.values,
        }
    }

    /// S, in tokens.
    pub fn segment(&self) -> usize {
        self.segment
    }

    /// G, in tokens (keys) or channels (values).
    pub fn group(&self) -> usize {
        self.group
    }

    /// Tokens at the start that are kept as precise copies.
    pub fn sinks(&self) -> usize {
        self.sinks
    }

    /// W, in tokens.
    pub fn residual(&self) -> usize {
        self.residual.unwrap_or(self.segment)
    }

    /// Tokens of a group that has a summary; none unless
    /// [asked for](Staircase::with_summaries).
    pub fn summaries(&self) -> Option<usize> {
        self.summaries
    }

    /// W, if it was set.
    pub(crate) fn given_residual(&self) -> Option<usize> {
        self.residual
    }

    /// Whether old tokens are dropped.
    pub fn drops(&self) -> bool {
        self.keys.last_bits() == 0
    }

    /// Whether every step gives the very codes that coding the original would: always of rotated
    /// codes, else where both ladders are [nested](Ladder::is_nested).
    pub fn is_nested(&self) -> bool {
        self.codec.is_rotated() || self.keys.is_nested() && self.values.is_nested()
    }

    /// Segments that leave the residual while `len` tokens are appended.
    pub(crate) fn segments_after(&self, len: usize) -> usize {
        len.min(MAX_LEN).saturating_sub(self.residual()) / self.segment
    }

    /// What happens when a segment leaves the residual.
    pub fn aging(&self, segment: usize) -> Aging {
        let steps = |ladder: &Ladder| {
            let stepping = ladder.ends().enumerate().filter(|&(_, end)| end <= segment);
            stepping.map(|(rung, end)| Step { segment: segment - end, from: rung, to: rung + 1 }).collect()
        };
        Aging { leaves: segment, keys: steps(&self.keys), values: steps(&self.values) }
    }

    /// What happens when one more token is appended after `len`: nothing, or a segment leaves the
    /// residual.
    pub fn on_append(&self, len: usize) -> Option<Aging> {
        let (before, after) = (self.segments_after(len), self.segments_after(len.saturating_add(1)));
        (after > before).then(|| self.aging(before))
    }

    /// Tokens quantized or stepped down, keys and values together, while `len` tokens are appended:
    /// never more than `len` times the number of rungs, so amortized O(1) per token.
    pub fn work(&self, len: usize) -> u64 {
        self.work_of(self.segments_after(len))
    }

    /// The same while so many segments leave the residual.
    pub(super) fn work_of(&self, segments: usize) -> u64 {
        let moves = |ladder: &Ladder| {
            let later = ladder.ends().map(|end| segments.saturating_sub(end) as u64).sum::<u64>();
            segments as u64 + later
        };
        (moves(&self.keys) + moves(&self.values)) * self.segment as u64
    }
}

/// A picture: newest tokens first, a column for each segment up to the last rung.
///
/// ```text
/// 4 sinks, residual 128 to 255, segments of 128, groups of 32
/// keys    16 █ │ 8 ▅▅ │ 4 ▃▃▃…
/// values  16 █ │ 8 ▅▅ │ 4 ▃▃▃▃▃▃ │ 2 ▂▂▂…
/// ```
impl fmt::Display for Staircase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Columns of a rung at most.
        const WIDE: usize = 16;
        let (least, segment) = (self.residual(), self.segment);
        write!(
            f,
            "{} sinks, residual {least} to {}, segments of {segment}, ",
            self.sinks,
            least + segment - 1,
        )?;
        match self.codec {
            Codec::MinMax => write!(f, "groups of {}", self.group)?,
            codec => write!(f, "{codec}")?,
        }
        match self.summaries {
            Some(tokens) => writeln!(f, ", summaries of {tokens} tokens")?,
            None => writeln!(f)?,
        }
        let columns = |count: usize, bits: u32| {
            let bar = match bits {
                16 => '█',
                8 => '▅',
                4 => '▃',
                3 | 2 => '▂',
                _ => '·',
            };
            let shown = bar.to_string().repeat(count.min(WIDE));
            if count > WIDE { format!("{shown}×{count}") } else { shown }
        };
        for (name, ladder) in [("keys  ", &self.keys), ("values", &self.values)] {
            write!(f, "{name}  16 {}", columns(least.div_ceil(segment), 16))?;
            for Rung { bits, segments } in ladder.rungs() {
                match segments {
                    Some(segments) => write!(f, " │ {bits} {}", columns(*segments, *bits))?,
                    None => write!(f, " │ {bits} {}…", columns(3, *bits))?,
                }
            }
            if name == "keys  " {
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

/// A segment that steps from one rung of a ladder to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The segment that steps.
    pub segment: usize,
    /// The rung of the segment before.
    pub from: usize,
    /// The rung of the segment after.
    pub to: usize,
}

/// What happens when a segment leaves the residual. At most one segment steps down per rung.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aging {
    /// The segment that goes to the first rungs.
    pub leaves: usize,
    /// Older segments whose keys step down.
    pub keys: Vec<Step>,
    /// Older segments whose values step down.
    pub values: Vec<Step>,
}

impl Aging {
    /// The steps of keys or of values.
    pub(super) fn steps(&self, side: Side) -> &[Step] {
        match side {
            Side::Keys => &self.keys,
            Side::Values => &self.values,
        }
    }
}
