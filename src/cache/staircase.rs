//! The staircase: at how many bits which token is stored.

use std::fmt;
use std::ops::Range;

use super::block::padded;
use super::quantize::{levels, nests};
use crate::error::{Result, ensure};
use crate::shape::{MAX_LEN, Shape};

/// Keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Quantized per channel: a group is G tokens of one channel.
    Keys,
    /// Quantized per token: a group is G channels of one token.
    Values,
}

impl Side {
    /// Both.
    pub const ALL: [Side; 2] = [Side::Keys, Side::Values];
}

/// One step of a [`Ladder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rung {
    /// 16 (f16), 8, 4, 3, 2 or 0 (dropped).
    pub bits: u32,
    /// How many segments dwell here; `None` on the last rung, which holds all older ones.
    pub segments: Option<usize>,
}

impl Rung {
    pub(super) const fn on(bits: u32, segments: usize) -> Self {
        Self { bits, segments: Some(segments) }
    }

    pub(super) const fn tail(bits: u32) -> Self {
        Self { bits, segments: None }
    }
}

/// The widths a segment passes through after it has left the precise residual, widest first.
///
/// ```
/// use prflash::cache::Ladder;
/// // 8 bits for two segments' time, 4 bits for six, then 2 bits.
/// let ladder = Ladder::new(&[(8, 2), (4, 6)], 2)?;
/// assert_eq!(ladder.to_string(), "8×2 → 4×6 → 2");
/// assert_eq!((ladder.rung_at(1), ladder.rung_at(2), ladder.rung_at(1000)), (0, 1, 2));
/// assert!(ladder.is_nested());
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ladder {
    rungs: Vec<Rung>,
}

impl Ladder {
    /// Rungs of `(bits, segments)`, and the bits of the last rung, which holds the tail.
    ///
    /// # Errors
    /// Invalid argument (`bits`) unless all are 16, 8, 4, 3 or 2 and fall from rung to rung; the last may be 0, which drops tokens. Invalid argument (`segments`) unless every
    /// dwell is at least 1 and their sum below 2³⁰.
    pub fn new(steps: &[(u32, usize)], last: u32) -> Result<Self> {
        let mut above = 17;
        for (index, bits) in steps.iter().map(|step| step.0).chain([last]).enumerate() {
            let known = matches!(bits, 16 | 8 | 4 | 3 | 2) || (bits == 0 && index == steps.len());
            ensure!(
                known,
                "bits",
                "expected 16, 8, 4, 3 or 2 (or 0 on the last rung), got {bits} on rung {index}"
            );
            ensure!(bits < above, "bits", "expected them to fall with age, got {bits} after {above}");
            above = bits;
        }
        let mut dwell = 0usize;
        for &(bits, segments) in steps {
            dwell = dwell.saturating_add(segments);
            ensure!(
                segments >= 1 && dwell < MAX_LEN,
                "segments",
                "expected at least 1 on a rung and a sum below {MAX_LEN}, got {segments} at {bits} bits"
            );
        }
        let steps = steps.iter().map(|&(bits, segments)| Rung::on(bits, segments));
        Ok(Self { rungs: steps.chain([Rung::tail(last)]).collect() })
    }

    pub(super) const fn of(rungs: Vec<Rung>) -> Self {
        Self { rungs }
    }

    /// The rungs, youngest first; never empty.
    pub fn rungs(&self) -> &[Rung] {
        &self.rungs
    }

    /// The rung of a segment that `age` other segments have followed out of the residual.
    pub fn rung_at(&self, age: usize) -> usize {
        let ends = self.ends();
        ends.take_while(|&end| end <= age).count()
    }

    /// The bits of the last rung.
    pub fn last_bits(&self) -> u32 {
        self.rungs.last().map_or(0, |rung| rung.bits)
    }

    /// The age at which each rung but the last ends.
    fn ends(&self) -> impl Iterator<Item = usize> + '_ {
        self.rungs.iter().filter_map(|rung| rung.segments).scan(0, |end, segments| {
            *end += segments;
            Some(*end)
        })
    }

    /// Whether every step gives the very codes that quantizing the original would: then a token never loses more than its present rung says.
    pub fn is_nested(&self) -> bool {
        self.rungs.windows(2).all(|pair| nests(pair[0].bits, pair[1].bits))
    }

    /// For each rung, the bound on `|x − x̂|` (in exact arithmetic, on x rounded to f16) as a fraction of the group's range: 0 at 16 bits, ∞ at 0 bits, and else
    /// `1/(2N) + 2⁻²²` with `N = 2^bits − 1`. From the first step that does not nest on, the `1/(2N)` of the rungs passed add up.
    pub fn error_bounds(&self) -> Vec<f64> {
        let (mut steps, mut direct, mut before) = (0.0, true, 16);
        let bound = |&Rung { bits, .. }: &Rung| {
            if matches!(bits, 16 | 0) {
                return if bits == 16 { 0.0 } else { f64::INFINITY };
            }
            let half = 0.5 / f64::from(levels(bits));
            direct &= nests(before, bits);
            before = bits;
            steps = if direct { half } else { steps + half };
            steps + SCALING_ERROR
        };
        self.rungs.iter().map(bound).collect()
    }
}

/// What scaling to 22 bits may add, as a fraction of the range.
const SCALING_ERROR: f64 = 1.0 / (1 << 22) as f64;

impl fmt::Display for Ladder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Rung { bits, segments } in &self.rungs {
            match segments {
                Some(segments) => write!(f, "{bits}×{segments} → ")?,
                None => write!(f, "{bits}")?,
            }
        }
        Ok(())
    }
}

/// A bound on the error of an attention output, from bounds on what it is computed of.
///
/// If every score is off by at most `score_error` = ε (natural units, before the softmax), then `‖p̂ − p‖₁ ≤ e^{2ε} − 1`, and with values up to `max_value` in magnitude,
/// off by at most `value_error`, `‖ô − o‖_∞ ≤ (e^{2ε} − 1)·max_value + value_error`. Keys off by at most e give `ε ≤ ‖q‖₁·e·scale`.
pub fn output_error_bound(score_error: f64, max_value: f64, value_error: f64) -> f64 {
    (2.0 * score_error).exp_m1() * max_value + value_error
}

/// At how many bits a KV cache stores which token: precise while young, in fewer bits as it ages (arXiv 2410.18441's staircase adaptive quantization).
///
/// Tokens come in segments of S (default 128) from token 0 on. The newest W … W + S − 1 tokens (W is the *residual*, default S) are f16; whenever W + S are
/// there, the oldest segment of them leaves the residual for the first rung of a [`Ladder`], one for keys and one for values, and segments whose dwell ends step
/// down. So after n tokens `m = max(0, ⌊(n − W)/S⌋)` segments have left, and segment s has age `m − 1 − s`. The first `sinks` tokens (default 4) are kept as precise
/// copies too, for good: attention leans on them (StreamingLLM, arXiv 2309.17453).
///
/// Groups of G values (default 32) share their extremes: G tokens of a channel for keys, G channels of a token for values (KIVI, arXiv 2402.02750); see
/// [`quantize`](super::quantize).
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
pub struct Staircase {
    keys: Ladder,
    values: Ladder,
    segment: usize,
    group: usize,
    sinks: usize,
    residual: Option<usize>,
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
        Self { keys, values, segment: 128, group: 32, sinks: 4, residual: None }
    }

    /// The same with other ladders that drop no token.
    pub(super) fn with_ladders(&self, keys: Ladder, values: Ladder) -> Self {
        Self { keys, values, ..self.clone() }
    }

    /// One ladder for both sides.
    fn both(rungs: Vec<Rung>) -> Self {
        Self::of(Ladder::of(rungs.clone()), Ladder::of(rungs))
    }

    /// The literal reading of arXiv 2410.18441: every width once, one segment on each but the last; keys 8 → 4, values 8 → 4 → 2, below the 16 bits of the residual.
    ///
    /// At long contexts that is almost all tail; see [`recommended`](Staircase::recommended).
    pub fn paper() -> Self {
        Self::of(
            Ladder::of(vec![Rung::on(8, 1), Rung::tail(4)]),
            Ladder::of(vec![Rung::on(8, 1), Rung::on(4, 1), Rung::tail(2)]),
        )
    }

    /// Dwells that grow with age, and keys in more bits than values: keys 8×2 → 4, values 8×2 → 4×16 → 2.
    ///
    /// Measured in the first 4,096 tokens of *Emma* and of *Persuasion*, every query reading the cache as it stands when tokens come one by one (`lab/results/staircase.csv`). Bytes
    /// are those of f16 over those held at the end, perplexity is against f32 keys and values:
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
    /// Down to this one nothing is lost that one window could tell (±0.2%), and further down values in 2 bits start to cost; 2-bit keys cost far more. With length it goes to a
    /// quarter of f16's bytes, where `kivi(4)` stays at 3.2 times fewer, and more of the values are in 2 bits: expect up to what the row of keys 4, values 2 says. Longer
    /// contexts and larger models were not measured. More texts, passkeys and the error by age are in `lab/RESULTS.md`.
    pub fn recommended() -> Self {
        Self::of(
            Ladder::of(vec![Rung::on(8, 2), Rung::tail(4)]),
            Ladder::of(vec![Rung::on(8, 2), Rung::on(4, 16), Rung::tail(2)]),
        )
    }

    /// KIVI (arXiv 2402.02750): a precise residual and one width, without sinks.
    ///
    /// # Errors
    /// Invalid argument (`bits`) unless 8, 4, 3 or 2.
    pub fn kivi(bits: u32) -> Result<Self> {
        ensure!(super::quantize::WIDTHS.contains(&bits), "bits", "expected 8, 4, 3 or 2, got {bits}");
        Ok(Self::both(vec![Rung::tail(bits)]).with_sinks(0))
    }

    /// StreamingLLM (arXiv 2309.17453): 4 sinks and the newest `window` … `window` + S − 1 tokens, all precise; the others are dropped.
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
    /// Invalid argument unless a positive multiple of G; too many tokens as in [`with_residual`](Staircase::with_residual).
    pub fn with_segment(self, segment: usize) -> Result<Self> {
        Self { segment, ..self }.validated()
    }

    /// The same with groups of another length G.
    ///
    /// # Errors
    /// Invalid argument unless a positive multiple of 32 (codes of a group then fill whole words at every width) that divides S.
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

    /// The same with another residual W, in tokens: at least the longest rollback ([`HostCache::truncate`](super::HostCache::truncate)).
    ///
    /// # Errors
    /// Invalid argument unless at least 1 and, with S, below 2³⁰.
    pub fn with_residual(self, residual: usize) -> Result<Self> {
        Self { residual: Some(residual), ..self }.validated()
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
        Ok(self)
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

    /// W, if it was set.
    pub(crate) fn given_residual(&self) -> Option<usize> {
        self.residual
    }

    /// Whether old tokens are dropped.
    pub fn drops(&self) -> bool {
        self.keys.last_bits() == 0
    }

    /// Whether both ladders are [nested](Ladder::is_nested).
    pub fn is_nested(&self) -> bool {
        self.keys.is_nested() && self.values.is_nested()
    }

    /// Where every token stands after `len` tokens have been appended (at most 2³⁰ − 1, the longest sequence).
    pub fn standing(&self, len: usize) -> Standing<'_> {
        let len = len.min(MAX_LEN);
        Standing { staircase: self, len, segments: self.segments_after(len) }
    }

    /// The same where `segments` segments have left the residual: more than `len` says if tokens were appended and then truncated.
    pub(crate) fn standing_at(&self, len: usize, segments: usize) -> Standing<'_> {
        Standing { staircase: self, len, segments }
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

    /// What happens when one more token is appended after `len`: nothing, or a segment leaves the residual.
    pub fn on_append(&self, len: usize) -> Option<Aging> {
        let (before, after) = (self.segments_after(len), self.segments_after(len.saturating_add(1)));
        (after > before).then(|| self.aging(before))
    }

    /// Tokens quantized or stepped down, keys and values together, while `len` tokens are appended: never more than `len` times the number of rungs, so amortized O(1) per
    /// token.
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
        writeln!(
            f,
            "{} sinks, residual {least} to {}, segments of {segment}, groups of {}",
            self.sinks,
            least + segment - 1,
            self.group
        )?;
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
    /// The segment.
    pub segment: usize,
    /// Its rung before.
    pub from: usize,
    /// Its rung after.
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
    pub fn steps(&self, side: Side) -> &[Step] {
        match side {
            Side::Keys => &self.keys,
            Side::Values => &self.values,
        }
    }
}

/// Where every token of one sequence stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing<'a> {
    staircase: &'a Staircase,
    len: usize,
    segments: usize,
}

impl<'a> Standing<'a> {
    /// Of which staircase.
    pub fn staircase(&self) -> &'a Staircase {
        self.staircase
    }

    /// Tokens of the sequence, dropped ones included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Segments that have left the residual, dropped ones included.
    pub fn segments(&self) -> usize {
        self.segments
    }

    /// The tokens of the residual.
    pub fn residual(&self) -> Range<usize> {
        self.segments * self.staircase.segment..self.len
    }

    /// The tokens that have precise copies.
    pub fn sinks(&self) -> Range<usize> {
        0..self.staircase.sinks.min(self.len)
    }

    /// The tokens that are held nowhere any more.
    pub fn dropped(&self) -> Range<usize> {
        let sinks = self.sinks().end;
        sinks..(self.dropped_segments() * self.staircase.segment).max(sinks)
    }

    /// Segments, from the oldest on, that are on a rung of 0 bits.
    pub(crate) fn dropped_segments(&self) -> usize {
        let ladder = &self.staircase.keys;
        match ladder.last_bits() {
            0 => self.segments.saturating_sub(ladder.ends().last().unwrap_or(0)),
            _ => 0,
        }
    }

    /// The rung of a segment; `None` while it is in the residual.
    pub fn segment_rung(&self, side: Side, segment: usize) -> Option<usize> {
        let age = self.segments.checked_sub(segment)?.checked_sub(1)?;
        Some(self.staircase.ladder(side).rung_at(age))
    }

    /// The rung of a token; `None` in the residual. Sinks have a rung like all others, beside their copies.
    pub fn rung_of(&self, side: Side, token: usize) -> Option<usize> {
        self.segment_rung(side, token / self.staircase.segment)
    }

    /// The bits in which attention reads a token: 16 for sinks and the residual, 0 if it was dropped (or isn't there).
    pub fn bits(&self, side: Side, token: usize) -> u32 {
        if token >= self.len {
            return 0;
        }
        match self.rung_of(side, token) {
            Some(rung) if token >= self.staircase.sinks => self.staircase.ladder(side).rungs[rung].bits,
            _ => 16,
        }
    }

    /// Maximal runs of tokens that are read at the same widths, oldest first: `(tokens, key bits, value bits)`.
    pub fn stretches(&self) -> Vec<(Range<usize>, u32, u32)> {
        // Widths change only behind the sinks, where a rung's tokens begin, and at the residual.
        let mut starts = vec![0, self.sinks().end, self.residual().start];
        for side in Side::ALL {
            starts.extend(self.rung_tokens(side).map(|tokens| tokens.start));
        }
        starts.sort_unstable();
        let mut stretches: Vec<(Range<usize>, u32, u32)> = Vec::new();
        for (index, &start) in starts.iter().enumerate() {
            let end = starts.get(index + 1).copied().unwrap_or(self.len).min(self.len);
            let bits = (self.bits(Side::Keys, start), self.bits(Side::Values, start));
            match stretches.last_mut() {
                _ if start >= end => {}
                Some((run, k, v)) if (*k, *v) == bits => run.end = end,
                _ => stretches.push((start..end, bits.0, bits.1)),
            }
        }
        stretches
    }

    /// n_k: how many tokens each rung holds, precise copies not counted.
    pub fn tokens_by_rung(&self, side: Side) -> Vec<usize> {
        self.rung_tokens(side).map(|tokens| tokens.len()).collect()
    }

    /// The segments on each rung, the youngest rung first.
    pub(super) fn rung_segments(&self, side: Side) -> impl Iterator<Item = Range<usize>> + use<'a> {
        let all = self.segments;
        let ends = self.staircase.ladder(side).ends().map(move |end| end.min(all)).chain([all]);
        ends.scan(0, move |before, end| {
            let ages = std::mem::replace(before, end)..end;
            Some(all - ages.end..all - ages.start)
        })
    }

    /// Their tokens.
    fn rung_tokens(&self, side: Side) -> impl Iterator<Item = Range<usize>> + use<'a> {
        let length = self.staircase.segment;
        self.rung_segments(side).map(move |segments| segments.start * length..segments.end * length)
    }

    /// The memory of what is held, for the key/value heads and channels of `shape` (its lengths and batch don't matter).
    ///
    /// In bits, keys and values each with their own ladder: `H_kv·D'·[16·(n_r + n_sink) + Σ_k n_k·c(B_k)]` with n_r tokens in the residual, n_sink precise copies,
    /// n_k tokens on a rung of B_k bits, `c(16) = 16`, `c(0) = 0`, else `c(B) = B + 32/G`, and D' the channels padded to a multiple of 32.
    pub fn memory(&self, shape: &Shape) -> Memory {
        let bytes = |side, dim: usize| {
            let elements = (shape.kv_heads() * padded(dim)) as u64;
            let rung = |(tokens, rung): (usize, &Rung)| {
                let numbers = tokens as u64 * elements;
                let codes = numbers * u64::from(rung.bits) / 8;
                codes
                    + if matches!(rung.bits, 16 | 0) { 0 } else { numbers * 4 / self.staircase.group as u64 }
            };
            let rungs = self.tokens_by_rung(side).into_iter().zip(self.staircase.ladder(side).rungs());
            let precise = |tokens: Range<usize>| 2 * tokens.len() as u64 * elements;
            (rungs.map(rung).collect(), precise(self.residual()), precise(self.sinks()))
        };
        let (keys, key_residual, key_sinks) = bytes(Side::Keys, shape.head_dim());
        let (values, value_residual, value_sinks) = bytes(Side::Values, shape.value_dim());
        Memory { keys, values, residual: key_residual + value_residual, sinks: key_sinks + value_sinks }
    }

    /// Bytes of keys and values that attention reads for one decode step over all tokens, each once per key/value head: blocks with their extremes, the residual,
    /// and the precise copies of sinks in place of what their blocks hold of them.
    ///
    /// A group's extremes count as read if one of its tokens is.
    pub fn bytes_read(&self, shape: &Shape) -> u64 {
        let (group, sinks) = (self.staircase.group as u64, self.sinks().end);
        let rows = sinks + self.len - self.residual().start.clamp(sinks, self.len);
        let bits = |side: Side, dim: usize| {
            let numbers = |tokens: u64| tokens * (shape.kv_heads() * padded(dim)) as u64;
            let rungs = self.rung_tokens(side).zip(self.staircase.ladder(side).rungs());
            let coded = rungs.map(|(tokens, rung)| {
                let read = tokens.end.saturating_sub(tokens.start.max(sinks)) as u64;
                // A word of extremes serves G tokens of a channel, or G channels of a token.
                let grouped = match side {
                    _ if matches!(rung.bits, 16 | 0) => 0,
                    Side::Keys => read.next_multiple_of(group),
                    Side::Values => read,
                };
                numbers(read) * u64::from(rung.bits) + numbers(grouped) * 32 / group
            });
            16 * numbers(rows as u64) + coded.sum::<u64>()
        };
        (bits(Side::Keys, shape.head_dim()) + bits(Side::Values, shape.value_dim())) / 8
    }

    /// Bits per number of K and V, padding and dropped tokens counted as what they take up; 16 for a plain f16 cache of 32·k channels, 0 without tokens.
    pub fn bits_per_element(&self, shape: &Shape) -> f64 {
        let channels = shape.kv_heads() * (shape.head_dim() + shape.value_dim());
        let numbers = self.len as u64 * channels as u64;
        if numbers == 0 { 0.0 } else { self.memory(shape).total() as f64 * 8.0 / numbers as f64 }
    }
}

/// Bytes of one sequence in a cache, by where they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Keys on each rung, with their extremes.
    pub keys: Vec<u64>,
    /// Values on each rung, with their extremes.
    pub values: Vec<u64>,
    /// The residual, keys and values.
    pub residual: u64,
    /// The precise copies of the sinks, keys and values.
    pub sinks: u64,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.keys.iter().chain(&self.values).sum::<u64>() + self.residual + self.sinks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn staircase() -> Staircase {
        Staircase::new(Ladder::new(&[(8, 1)], 4).unwrap(), Ladder::new(&[(8, 1), (4, 2)], 2).unwrap())
            .unwrap()
    }

    #[test]
    fn refusals_name_the_argument() {
        let ladder = |steps: &[(u32, usize)], last| Ladder::new(steps, last).unwrap_err().argument().unwrap();
        assert_eq!(ladder(&[(5, 1)], 2), "bits");
        assert_eq!(ladder(&[(4, 1)], 8), "bits");
        assert_eq!(ladder(&[(4, 1)], 4), "bits");
        assert_eq!(ladder(&[(8, 1), (0, 1)], 0), "bits");
        assert_eq!(ladder(&[(8, 0)], 4), "segments");
        assert_eq!(ladder(&[(8, usize::MAX), (4, 2)], 2), "segments");
        let named = |r: Result<Staircase>| r.unwrap_err().argument().unwrap();
        let dropping = |dwell| Ladder::new(&[(8, dwell)], 0).unwrap();
        assert_eq!(named(Staircase::new(dropping(1), Ladder::new(&[], 8).unwrap())), "values");
        assert_eq!(named(Staircase::new(dropping(1), dropping(2))), "values");
        assert_eq!(named(staircase().with_segment(0)), "segment");
        assert_eq!(named(staircase().with_segment(48)), "segment");
        assert_eq!(named(staircase().with_segment(usize::MAX / 32 * 32)), "segment");
        assert_eq!(named(staircase().with_group(16)), "group");
        assert_eq!(named(staircase().with_group(96)), "segment");
        assert_eq!(named(staircase().with_residual(0)), "residual");
        assert_eq!(named(staircase().with_residual(usize::MAX)), "residual");
        assert_eq!(named(Staircase::kivi(16)), "bits");
        assert_eq!(named(Staircase::streaming(0)), "residual");
    }

    #[test]
    fn segments_age_and_step_down() {
        let staircase = staircase();
        let mut rungs: Vec<[usize; 2]> = Vec::new();
        for len in 0..2000 {
            let standing = staircase.standing(len);
            assert!(len < 128 || (128..256).contains(&standing.residual().len()), "{len}");
            for (segment, &[k, v]) in rungs.iter().enumerate() {
                assert_eq!(standing.segment_rung(Side::Keys, segment), Some(k));
                assert_eq!(standing.segment_rung(Side::Values, segment), Some(v));
            }
            assert_eq!(standing.segment_rung(Side::Keys, rungs.len()), None);
            let Some(aging) = staircase.on_append(len) else { continue };
            assert_eq!(aging.leaves, rungs.len());
            rungs.push([0, 0]);
            for (at, side) in Side::ALL.into_iter().enumerate() {
                for step in aging.steps(side) {
                    assert_eq!(rungs[step.segment][at], step.from);
                    rungs[step.segment][at] = step.to;
                }
            }
        }
        assert_eq!(rungs.len(), 14);
    }

    #[test]
    fn stretches_and_tokens_agree_with_single_tokens() {
        for staircase in [staircase(), Staircase::streaming(100).unwrap(), Staircase::plain()] {
            for len in [0, 1, 3, 127, 300, 1000, 1537] {
                let standing = staircase.standing(len);
                let mut next = 0;
                for (run, k, v) in standing.stretches() {
                    assert_eq!(run.start, next);
                    next = run.end;
                    for token in run {
                        let bits = (standing.bits(Side::Keys, token), standing.bits(Side::Values, token));
                        assert_eq!(bits, (k, v));
                        assert_eq!(standing.dropped().contains(&token), k == 0);
                    }
                }
                assert_eq!(next, len);
                for side in Side::ALL {
                    let count = |rung| (0..len).filter(|&t| standing.rung_of(side, t) == Some(rung)).count();
                    let counted: Vec<usize> = (0..staircase.ladder(side).rungs().len()).map(count).collect();
                    assert_eq!(standing.tokens_by_rung(side), counted);
                }
            }
        }
    }

    #[test]
    fn the_byte_formula() {
        let shape = Shape::new(4, 2, 1, 80).unwrap();
        // 1,000 tokens: 6 segments have left, 232 tokens are in the residual; 80 channels are padded to 96.
        let memory = staircase().standing(1000).memory(&shape);
        let numbers = |tokens: u64| tokens * 2 * 96;
        assert_eq!(memory.keys, [numbers(128) * 9 / 8, numbers(640) * 5 / 8]);
        assert_eq!(memory.values, [numbers(128) * 9 / 8, numbers(256) * 5 / 8, numbers(384) * 3 / 8]);
        assert_eq!((memory.residual, memory.sinks), (numbers(232) * 4, numbers(4) * 4));
        let plain = Shape::new(4, 2, 1, 64).unwrap();
        assert_eq!(Staircase::plain().standing(777).bits_per_element(&plain), 16.0);
        assert_eq!(Staircase::plain().standing(0).bits_per_element(&plain), 0.0);
    }

    #[test]
    fn bytes_of_a_decode_step() {
        let shape = Shape::new(4, 2, 1, 80).unwrap();
        let numbers = |tokens: u64| tokens * 2 * 96;
        // As above; 4 sinks are read from their copies, so 636 of the 640 tokens in keys' last rung, but all of their extremes.
        let keys = numbers(128) * 9 / 8 + numbers(636) / 2 + numbers(640) / 8;
        let values = numbers(128) * 9 / 8 + numbers(256) * 5 / 8 + numbers(380) * 3 / 8;
        let rows = 2 * numbers(236) * 2;
        assert_eq!(staircase().standing(1000).bytes_read(&shape), keys + values + rows);
        for len in [0, 2, 90, 1000] {
            let plain = Staircase::plain();
            assert_eq!(plain.standing(len).bytes_read(&shape), plain.standing(len).memory(&shape).total());
            // Sinks in the residual are read once.
            let sinks = plain.clone().with_sinks(100);
            assert_eq!(sinks.standing(len).bytes_read(&shape), plain.standing(len).memory(&shape).total());
            let streaming = Staircase::streaming(50).unwrap();
            let live = len - streaming.standing(len).dropped().len();
            assert_eq!(streaming.standing(len).bytes_read(&shape), 2 * 2 * numbers(live as u64));
        }
        // What whole groups of sinks held is not read at all.
        let many = staircase().with_sinks(70).standing(1000).bytes_read(&shape);
        let keys = numbers(128) * 9 / 8 + numbers(570) / 2 + numbers(576) / 8;
        let values = numbers(128) * 9 / 8 + numbers(256) * 5 / 8 + numbers(314) * 3 / 8;
        assert_eq!(many, keys + values + 2 * numbers(302) * 2);
    }

    #[test]
    fn bounds_of_rungs() {
        let bounds = |steps: &[(u32, usize)], last| Ladder::new(steps, last).unwrap().error_bounds();
        let half = |bits| 0.5 / f64::from(levels(bits));
        assert_eq!(
            bounds(&[(16, 1), (8, 1), (4, 1)], 2),
            [0.0, half(8), half(4), half(2)].map(|b| if b > 0.0 { b + SCALING_ERROR } else { b })
        );
        assert_eq!(
            bounds(&[(8, 1), (3, 1)], 2),
            [half(8), half(8) + half(3), half(8) + half(3) + half(2)].map(|b| b + SCALING_ERROR)
        );
        assert_eq!(bounds(&[(8, 1)], 0)[1], f64::INFINITY);
        assert!((output_error_bound(0.1, 2.0, 0.25) - (2.0 * (0.2f64.exp() - 1.0) + 0.25)).abs() < 1e-15);
    }

    #[test]
    fn the_longest_sequence_costs_nothing_to_ask_about() {
        let shape = Shape::new(1 << 16, 1 << 16, 0, 256).unwrap();
        for staircase in [staircase(), Staircase::plain(), Staircase::streaming(1).unwrap()] {
            let staircase = staircase.with_segment(32).unwrap().with_sinks(usize::MAX);
            let standing = staircase.standing(usize::MAX);
            assert_eq!((standing.len(), standing.sinks()), (MAX_LEN, 0..MAX_LEN));
            assert_eq!(standing.stretches(), [(0..MAX_LEN, 16, 16)]);
            let row = 2 * 2 * (256 << 16);
            assert_eq!(standing.bytes_read(&shape), MAX_LEN as u64 * row);
            assert!(standing.memory(&shape).total() >= MAX_LEN as u64 * row);
            assert_eq!(
                (standing.bits(Side::Keys, usize::MAX), standing.rung_of(Side::Values, usize::MAX)),
                (0, None)
            );
            assert_eq!(
                (staircase.on_append(usize::MAX), staircase.aging(usize::MAX).leaves),
                (None, usize::MAX)
            );
        }
    }

    #[test]
    fn work_is_amortized() {
        for staircase in [staircase(), Staircase::plain(), Staircase::recommended()] {
            let rungs: usize = Side::ALL.iter().map(|&side| staircase.ladder(side).rungs().len()).sum();
            let mut counted = 0;
            for len in 0..20_000 {
                assert_eq!(staircase.work(len), counted);
                assert!(counted <= (len * rungs) as u64);
                if let Some(aging) = staircase.on_append(len) {
                    counted += 128 * (2 + aging.keys.len() + aging.values.len()) as u64;
                }
            }
        }
    }

    #[test]
    fn pictures() {
        let text = Staircase::recommended().with_residual(4096).unwrap().to_string();
        assert_eq!(
            text,
            "4 sinks, residual 4096 to 4223, segments of 128, groups of 32\n\
             keys    16 ████████████████×32 │ 8 ▅▅ │ 4 ▃▃▃…\n\
             values  16 ████████████████×32 │ 8 ▅▅ │ 4 ▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃ │ 2 ▂▂▂…"
        );
    }
}
