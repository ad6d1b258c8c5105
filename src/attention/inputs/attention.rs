//! What is computed, as plain options.

use std::sync::Arc;

use crate::error::{Result, ensure};
use crate::layout::DType;
use crate::position::Positions;

/// What one attention call computes: plain options, no device. How it is computed is a plan's
/// business ([`PlanOptions`](crate::PlanOptions)).
///
/// With query i at absolute position `i + kv_len − q_len`, lag `Δ` and block distance d,
///
/// ```text
/// x(i, j) = cap·tanh(⟨R qᵢ, R kⱼ⟩·scale / cap)                  (without a soft-cap: ⟨R qᵢ, R kⱼ⟩·scale)
/// s(i, j) = a(Δ)·x(i, j) − λ·m_h·c(Δ)·φ(Δ) − β·ln p(d) + M_h(i, j)
/// o(i)    = Σⱼ e^s(i, j)·vⱼ / (e^z_h + Σⱼ e^s(i, j))             LSE(i) = ln(e^z_h + Σⱼ e^s(i, j))
/// ```
///
/// over the visible keys j: those that causality, the window and the schedule leave. `scale` is
/// `1/√D` unless set. The rotation R, the factor a and the bias are those of [`Positions`];
/// without, `R = 1`, `a = 1` and the bias is 0. The sink `z_h` of a query head is one of those
/// [that were given](Attention::with_sinks); without, `e^z_h` is 0. M is the call's
/// [mask](crate::attention::Mask), if the attention [takes one](Attention::with_masks).
///
/// # Rows without a result, and numbers that aren't finite
/// By every kernel, by the [oracle](crate::reference), and through every merge of states (split
/// keys, [rounds](crate::rounds::RoundsPlan), [re-shaped tensors](crate::literal::ReshapedPlan)):
///
/// - A row that sees no key is *empty*: output 0 and LSE −∞, or with a sink the sink itself.
/// - A key whose score is −∞ weighs `e^−∞ = 0`, as one that isn't seen. A row whose keys all are
///   such is empty too. (So masks given as scores work, and the parts of a row's keys, in whatever
///   way they are divided, merge into what the whole row gives; PyTorch's
///   `scaled_dot_product_attention` has zeros there as well.)
/// - A row that sees a score that is NaN or +∞ has NaN in every channel and as LSE, whatever its
///   other keys are, and beside any sink. LSE is −∞ for empty rows alone.
/// - A score past what f32 holds (±3.4·10³⁸), before or after the soft-cap and the bias, is
///   infinite with its sign. Where only parts of an inner product's sum are past it, the score may
///   be infinite or NaN. Queries that hold infinities over a [cache](crate::cache::KvCache), and
///   infinities that are rotated, may give NaN instead of ±∞.
/// - A value that isn't finite makes its channel of the output infinite or NaN in every row that
///   sees it, be its weight 0 (`0·∞` is NaN); it changes no other channel and no LSE.
///
/// What a row doesn't see, masked or not scheduled, may hold anything.
///
/// ```
/// use prflash::{Attention, DType};
/// let attention = Attention::causal().with_window(512)?.with_lse(true).with_storage(DType::F16);
/// assert_eq!(attention.window(), Some(512));
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    causal: bool,
    window: Option<usize>,
    scale: Option<f32>,
    soft_cap: Option<f32>,
    correction: f32,
    lse: bool,
    storage: DType,
    output: DType,
    positions: Option<Arc<Positions>>,
    sinks: Option<Arc<[f32]>>,
    masks: bool,
}

impl Attention {
    /// A query sees the keys up to its own position.
    pub const fn causal() -> Self {
        Self {
            causal: true,
            window: None,
            scale: None,
            soft_cap: None,
            correction: 0.0,
            lse: false,
            storage: DType::F32,
            output: DType::F32,
            positions: None,
            sinks: None,
            masks: false,
        }
    }

    /// A query sees every key.
    pub fn full() -> Self {
        Self { causal: false, ..Self::causal() }
    }

    /// Only keys at a lag `|Δ| < tokens` are visible (the query's own position counts as one).
    /// Token-exact.
    ///
    /// # Errors
    /// Invalid argument if `tokens` is 0.
    pub fn with_window(self, tokens: usize) -> Result<Self> {
        ensure!(tokens >= 1, "window", "expected at least 1 token, got 0");
        Ok(Self { window: Some(tokens), ..self })
    }

    /// Another factor on the inner products than `1/√D`.
    ///
    /// # Errors
    /// Invalid argument unless finite.
    pub fn with_scale(self, scale: f32) -> Result<Self> {
        ensure!(scale.is_finite(), "scale", "expected a finite number, got {scale}");
        Ok(Self { scale: Some(scale), ..self })
    }

    /// Bounds the scores to ±`cap` by `cap·tanh(s/cap)` (Gemma 2), with a relative error of a few
    /// units in the last place however far the cap is from the scores.
    ///
    /// # Errors
    /// Invalid argument unless from 10⁻³⁰ to 10³⁰: beyond, quotients of a score and a cap leave the
    /// range of f32. Attention without a cap has none.
    pub fn with_soft_cap(self, cap: f32) -> Result<Self> {
        ensure!((1e-30..=1e30).contains(&cap), "soft_cap", "expected 1e-30 to 1e30, got {cap:e}");
        Ok(Self { soft_cap: Some(cap), ..self })
    }

    /// The importance correction β: `−β·ln p` is added to the scores of a sampled block.
    ///
    /// At β = 1 numerator and denominator of the softmax are unbiased over schedules
    /// (Horvitz–Thompson) and their ratio is consistent; β = 0, the default, is the paper's literal
    /// form.
    ///
    /// # Errors
    /// Invalid argument unless `0 ≤ beta ≤ 1`.
    pub fn with_correction(self, beta: f32) -> Result<Self> {
        ensure!((0.0..=1.0).contains(&beta), "beta", "expected 0 to 1, got {beta}");
        Ok(Self { correction: beta, ..self })
    }

    /// Whether the natural-log log-sum-exp of each row is written too.
    pub fn with_lse(self, lse: bool) -> Self {
        Self { lse, ..self }
    }

    /// The type in which Q, K and V are stored. Default f32.
    pub fn with_storage(self, dtype: DType) -> Self {
        Self { storage: dtype, ..self }
    }

    /// The type in which the output is stored. Default f32, whatever the storage of the inputs.
    pub fn with_output(self, dtype: DType) -> Self {
        Self { output: dtype, ..self }
    }

    /// Scores that depend on positions: a rotation of queries and keys, a bias against distance, or
    /// both.
    pub fn with_positions(self, positions: Positions) -> Self {
        Self { positions: Some(Arc::new(positions)), ..self }
    }

    /// Learned sinks (gpt-oss; OpenAI 2025, arXiv 2508.10925): one logit `z_h` of each query head
    /// in the denominator of its softmax, which no value goes with. A row whose keys have nothing
    /// for it can then attend to nothing.
    ///
    /// A plan has the sinks of one layer: they are weights of the model. They are natural
    /// logarithms, as scores are, and neither scale nor soft-cap changes them. Where the keys of a
    /// row are cut up, a sink is added once: splits of a plan and rounds of a
    /// [`RoundsPlan`](crate::rounds::RoundsPlan) see to it by themselves; parts of your own take
    /// [`without_sinks`](Attention::without_sinks).
    ///
    /// ```
    /// use prflash::{Attention, Shape, Tables, reference};
    /// // One query and one key, of four channels that are 0: the score is 0, as the sink is.
    /// let (shape, attention) = (Shape::new(1, 1, 1, 4)?, Attention::causal().with_sinks(&[0.0])?);
    /// let exact = reference::attention(&attention, &shape, &[0.0; 4], &[0.0; 4], &[8.0; 4], &Tables::new())?;
    /// assert_eq!((exact.output, exact.lse), (vec![4.0; 4], vec![2f64.ln()]));
    /// # Ok::<(), prflash::Error>(())
    /// ```
    ///
    /// # Errors
    /// Invalid argument (`sinks`) unless there is at least one and each is within ±10³⁰. Plans and
    /// the oracle refuse those of another number of heads.
    pub fn with_sinks(self, sinks: &[f32]) -> Result<Self> {
        ensure!(!sinks.is_empty(), "sinks", "expected one for each query head, got none");
        for (head, sink) in sinks.iter().enumerate() {
            ensure!(is_sink(*sink), "sinks", "expected numbers within ±1e30, got {sink:e} of head {head}");
        }
        Ok(Self { sinks: Some(sinks.into()), ..self })
    }

    /// The same without sinks: the states of parts of a row's keys, to be merged.
    pub fn without_sinks(self) -> Self {
        Self { sinks: None, ..self }
    }

    /// The sink of each query head, if there are any.
    pub fn sinks(&self) -> Option<&[f32]> {
        self.sinks.as_deref()
    }

    /// Refuses sinks of another number of heads.
    pub(crate) fn check_sinks(&self, heads: usize) -> Result<()> {
        let got = self.sinks().map_or(heads, <[f32]>::len);
        ensure!(got == heads, "sinks", "expected one for each of {heads} query heads, got {got}");
        Ok(())
    }

    /// Whether calls may bring a [`Mask`](crate::attention::Mask) in their tables: a number that is
    /// added to the score of each pair. Kernels that look for one take longer; without one they
    /// compute the same.
    pub fn with_masks(self, masks: bool) -> Self {
        Self { masks, ..self }
    }

    /// Whether calls may bring a mask.
    pub fn masks(&self) -> bool {
        self.masks
    }

    /// How scores depend on positions, if they do.
    pub fn positions(&self) -> Option<&Positions> {
        self.positions.as_deref()
    }

    /// Whether scores have a bias, whose slopes have gradients.
    pub(crate) fn is_biased(&self) -> bool {
        self.positions().is_some_and(|positions| positions.bias().is_some())
    }

    /// The same with or without the keys after each query.
    pub(in crate::attention) fn with_causality(self, causal: bool) -> Self {
        Self { causal, ..self }
    }

    /// Whether keys after the query are hidden.
    pub fn is_causal(&self) -> bool {
        self.causal
    }

    /// The sliding window in tokens, if any.
    pub fn window(&self) -> Option<usize> {
        self.window
    }

    /// The factor on the inner products for this head dimension.
    pub fn scale(&self, head_dim: usize) -> f32 {
        self.scale.unwrap_or_else(|| (1.0 / (head_dim as f64).sqrt()) as f32)
    }

    /// The soft-cap on the scores, if any.
    pub fn soft_cap(&self) -> Option<f32> {
        self.soft_cap
    }

    /// The importance correction β.
    pub fn correction(&self) -> f32 {
        self.correction
    }

    /// Whether the log-sum-exp is written.
    pub fn lse(&self) -> bool {
        self.lse
    }

    /// The storage type of Q, K and V.
    pub fn storage(&self) -> DType {
        self.storage
    }

    /// The storage type of the output.
    pub fn output(&self) -> DType {
        self.output
    }

    /// Whether another one's scores are these, but for weights of sampling.
    pub(in crate::attention) fn scores_alike(&self, other: &Self) -> bool {
        let of = |attention: &Self| {
            let attention = attention.clone().without_sinks().with_masks(false);
            Self { correction: 0.0, lse: false, output: DType::F32, ..attention }
        };
        of(self) == of(other)
    }

    /// The visible keys `lo..hi` of a query at absolute `position`, before any schedule; none past
    /// `kv_len`, wherever the query is.
    pub fn visible(&self, position: i64, kv_len: usize) -> std::ops::Range<usize> {
        let keys = i64::try_from(kv_len).unwrap_or(i64::MAX);
        let clamp = |x: i64| x.clamp(0, keys) as usize;
        // Past an i64 it hides nothing.
        let window = self.window.and_then(|window| i64::try_from(window).ok());
        let lo = window.map_or(0, |window| clamp(position.saturating_sub(window - 1)));
        let ahead = if self.causal { Some(1) } else { window };
        let hi = ahead.map_or(clamp(keys), |ahead| clamp(position.saturating_add(ahead)));
        lo..hi.max(lo)
    }
}

/// Whether a number may be a sink: beyond, its difference from a score leaves the range of f32.
pub(in crate::attention) fn is_sink(sink: f32) -> bool {
    (-1e30..=1e30).contains(&sink)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_argument() {
        let named = |r: Result<Attention>| r.unwrap_err().argument().unwrap();
        assert_eq!(named(Attention::causal().with_window(0)), "window");
        assert_eq!(named(Attention::causal().with_scale(f32::NAN)), "scale");
        for cap in [0.0, -1.0, 0.9e-30, 1.1e30, f32::INFINITY, f32::NAN] {
            assert_eq!(named(Attention::causal().with_soft_cap(cap)), "soft_cap");
        }
        assert!([1e-30, 1e30].map(|cap| Attention::causal().with_soft_cap(cap)).iter().all(Result::is_ok));
        assert_eq!(named(Attention::causal().with_correction(1.5)), "beta");
        assert_eq!(named(Attention::causal().with_correction(f32::NAN)), "beta");
        for sinks in [&[][..], &[f32::NAN], &[0.0, f32::INFINITY], &[f32::NEG_INFINITY], &[1.1e30]] {
            assert_eq!(named(Attention::causal().with_sinks(sinks)), "sinks");
        }
        let two = Attention::causal().with_sinks(&[1e30, -1e30]).unwrap();
        assert_eq!(two.check_sinks(3).unwrap_err().argument(), Some("sinks"));
        assert!(two.check_sinks(2).is_ok() && two.without_sinks() == Attention::causal());
    }

    #[test]
    fn visibility() {
        let causal = Attention::causal();
        assert_eq!(causal.visible(3, 10), 0..4);
        assert_eq!(causal.visible(-2, 10), 0..0);
        assert_eq!(causal.clone().with_window(2).unwrap().visible(3, 10), 2..4);
        assert_eq!(causal.clone().with_window(1).unwrap().visible(0, 10), 0..1);
        assert_eq!(causal.clone().with_window(usize::MAX).unwrap().visible(3, 10), 0..4);
        let full = Attention::full();
        assert_eq!(full.visible(3, 10), 0..10);
        assert_eq!(full.visible(-2, 10), 0..10);
        assert_eq!(full.clone().with_window(2).unwrap().visible(3, 10), 2..5);
        assert_eq!(full.clone().with_window(2).unwrap().visible(-2, 10), 0..0);
        assert_eq!(full.visible(3, 0), 0..0);
    }

    #[test]
    fn visibility_at_positions_that_no_sequence_has() {
        let all = i64::MAX as usize;
        assert_eq!(Attention::causal().visible(i64::MAX, usize::MAX), 0..all);
        assert_eq!(Attention::full().visible(0, usize::MAX), 0..all);
        for attention in [Attention::causal(), Attention::full()] {
            for attention in [attention.clone().with_window(usize::MAX).unwrap(), attention.clone()] {
                assert_eq!(attention.visible(4, 9), if attention.is_causal() { 0..5 } else { 0..9 });
                for position in [i64::MIN, i64::MAX] {
                    let none = attention.is_causal() && position < 0;
                    assert_eq!(attention.visible(position, 5), if none { 0..0 } else { 0..5 });
                }
            }
            let near = attention.with_window(3).unwrap();
            for (position, kv_len) in [(i64::MIN, 5), (i64::MAX, 5), (i64::MIN, usize::MAX)] {
                assert!(near.visible(position, kv_len).is_empty());
            }
            assert_eq!(near.visible(i64::MAX, usize::MAX).start, all - 2);
        }
    }
}
