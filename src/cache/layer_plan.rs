//! Which layers' keys and values have the wider of two ladders.

use std::cmp::Ordering;

use super::ladder::Side;
use super::staircase::Staircase;
use crate::error::{Result, ensure};
use crate::shape::Shape;

/// What is lost where the keys or the values of one layer alone have the narrower ladder, and
/// everything else is f16.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Sensitivity {
    /// The layer.
    pub layer: usize,
    /// Keys or values.
    pub side: Side,
    /// A measure of the loss, larger where more is lost: the divergence of predictions from those
    /// of dense attention, in nats, say.
    pub loss: f64,
}

/// For each layer of a model, whether its keys and whether its values have the wider of two
/// ladders.
///
/// Layers differ in what they lose at few bits. So measure each of them by itself on some text
/// ([`Sensitivity`]; `lab caches` in the repository does), give the wider ladder where it helps
/// most, and keep the plan with the model: with the feature `serde` it can be written and read.
///
/// ```
/// use prflash::Shape;
/// use prflash::cache::{Codec, Ladder, LayerPlan, Sensitivity, Side, Staircase};
/// let both = |steps: &[(u32, usize)], last| -> prflash::Result<Staircase> {
///     Staircase::new(Ladder::new(steps, last)?, Ladder::new(steps, last)?)?
///         .with_codec(Codec::Rotated { fine_tokens: 1 })
/// };
/// let (narrow, wide) = (both(&[(4, 8)], 2)?, both(&[(8, 4)], 4)?);
/// # let measured = |layer, side| (layer + side as usize + 1) as f64;
/// let known: Vec<Sensitivity> = (0..30)
///     .flat_map(|layer| Side::ALL.map(|side| (layer, side)))
///     .map(|(layer, side)| Sensitivity { layer, side, loss: measured(layer, side) })
///     .collect();
/// // 30 layers in no more than 32 MB at 4,096 tokens.
/// let shape = Shape::new(9, 3, 1, 64)?;
/// let plan = LayerPlan::new(narrow, wide, 30)?.within_bytes(&known, &shape, 4096, 32_000_000)?;
/// assert!(plan.bytes(&shape, 4096) <= 32_000_000 && plan.count() > 0);
/// let caches: Vec<Staircase> = plan.staircases();
/// # assert_eq!(caches.len(), 30);
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(try_from = "Stored"))]
pub struct LayerPlan {
    narrow: Staircase,
    wide: Staircase,
    /// Whether keys, and whether values, are wide.
    layers: Vec<[bool; 2]>,
}

/// More than any model has.
const MOST_LAYERS: usize = 1 << 16;

/// A plan as a file has it.
#[cfg(feature = "serde")]
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    narrow: Staircase,
    wide: Staircase,
    layers: Vec<[bool; 2]>,
}

#[cfg(feature = "serde")]
impl TryFrom<Stored> for LayerPlan {
    type Error = crate::error::Error;

    fn try_from(Stored { narrow, wide, layers }: Stored) -> Result<Self> {
        let plan = Self::new(narrow, wide, layers.len())?;
        Ok(Self { layers, ..plan })
    }
}

impl LayerPlan {
    /// The narrow ladders everywhere, in so many layers.
    ///
    /// # Errors
    /// Invalid argument (`wide`) unless the staircases differ in their ladders alone, and drop
    /// tokens at the same age or not at all; (`layers`) past 65,536.
    pub fn new(narrow: Staircase, wide: Staircase, layers: usize) -> Result<Self> {
        let alike = |one: &Staircase| {
            let (segment, group, residual) = (one.segment(), one.group(), one.residual());
            (segment, group, residual, one.sinks(), one.summaries(), one.codec())
        };
        ensure!(
            alike(&narrow) == alike(&wide),
            "wide",
            "expected the segments, groups, residual, sinks, summaries and codec of {narrow}, got {wide}"
        );
        ensure!(layers <= MOST_LAYERS, "layers", "expected at most {MOST_LAYERS}, got {layers}");
        let plan = Self { narrow, wide, layers: vec![[false; 2]; layers] };
        // Whichever ladders meet.
        for pair in [[true, false], [false, true]] {
            plan.pair(pair)?;
        }
        Ok(plan)
    }

    /// The same with the wide ladder in the `count` places where most is lost; of equal ones, in
    /// the first that are given.
    ///
    /// # Errors
    /// Invalid argument (`known`) for a layer that there isn't, or a loss that isn't a number.
    pub fn with_most_sensitive(mut self, known: &[Sensitivity], count: usize) -> Result<Self> {
        self.check(known)?;
        let mut sorted: Vec<&Sensitivity> = known.iter().collect();
        sorted.sort_by(|a, b| b.loss.total_cmp(&a.loss));
        sorted.iter().take(count).for_each(|one| self.widen(one));
        Ok(self)
    }

    /// The same with the wide ladder wherever it still fits, first where a byte more takes away
    /// most loss, so that all layers of this shape hold `tokens` tokens in at most so many bytes.
    ///
    /// # Errors
    /// As [`with_most_sensitive`](LayerPlan::with_most_sensitive); invalid argument (`bytes`) if
    /// the plan as it is takes more.
    pub fn within_bytes(
        mut self,
        known: &[Sensitivity],
        shape: &Shape,
        tokens: usize,
        bytes: u64,
    ) -> Result<Self> {
        self.check(known)?;
        let mut held = self.bytes(shape, tokens);
        ensure!(
            held <= bytes,
            "bytes",
            "expected at least {held}, what the narrow ladders take, got {bytes}"
        );
        let costs = Side::ALL.map(|side| self.cost(side, shape, tokens));
        // By loss per byte, without dividing: what costs nothing comes first.
        let order = |a: &&Sensitivity, b: &&Sensitivity| -> Ordering {
            let [of_a, of_b] = [a, b].map(|one| costs[one.side as usize] as f64);
            (b.loss * of_a).total_cmp(&(a.loss * of_b))
        };
        let mut sorted: Vec<&Sensitivity> = known.iter().collect();
        sorted.sort_by(order);
        for one in sorted {
            let cost = costs[one.side as usize];
            if !self.is_wide(one.layer, one.side) && held.saturating_add(cost) <= bytes {
                self.widen(one);
                held += cost;
            }
        }
        Ok(self)
    }

    /// How many layers there are.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Whether the keys or the values of a layer have the wide ladder; none have of a layer that
    /// there isn't.
    pub fn is_wide(&self, layer: usize, side: Side) -> bool {
        self.layers.get(layer).is_some_and(|wide| wide[side as usize])
    }

    /// How many of the `2 · layers` ladders are wide.
    pub fn count(&self) -> usize {
        self.layers.iter().flatten().filter(|&&wide| wide).count()
    }

    /// The staircase of each layer.
    pub fn staircases(&self) -> Vec<Staircase> {
        // No pair is refused: `new` has tried them.
        self.layers.iter().map(|&wide| self.pair(wide).unwrap_or_else(|_| self.narrow.clone())).collect()
    }

    /// Bytes of all layers, of this shape each, once `tokens` tokens are there.
    pub fn bytes(&self, shape: &Shape, tokens: usize) -> u64 {
        let of = |staircase: &Staircase| staircase.standing(tokens).memory(shape).total();
        self.staircases().iter().map(of).fold(0, u64::saturating_add)
    }

    /// What a wide ladder takes more than a narrow one.
    fn cost(&self, side: Side, shape: &Shape, tokens: usize) -> u64 {
        let of = |staircase: &Staircase| staircase.standing(tokens).memory(shape).total();
        let wide = self.pair([side == Side::Keys, side == Side::Values]);
        wide.map_or(0, |wide| of(&wide).saturating_sub(of(&self.narrow)))
    }

    fn pair(&self, [keys, values]: [bool; 2]) -> Result<Staircase> {
        let ladder = |wide: bool, side| if wide { &self.wide } else { &self.narrow }.ladder(side).clone();
        let (keys, values) = (ladder(keys, Side::Keys), ladder(values, Side::Values));
        self.narrow.clone().with_both_ladders(keys, values)
    }

    fn widen(&mut self, one: &Sensitivity) {
        self.layers[one.layer][one.side as usize] = true;
    }

    fn check(&self, known: &[Sensitivity]) -> Result<()> {
        for Sensitivity { layer, loss, .. } in known {
            ensure!(
                *layer < self.layers(),
                "known",
                "expected layers below {}, got layer {layer}",
                self.layers()
            );
            ensure!(loss.is_finite(), "known", "expected finite losses, got {loss} of layer {layer}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Codec, Ladder};

    fn staircase(bits: u32) -> Staircase {
        let ladder = || Ladder::new(&[(8, 2)], bits).unwrap();
        Staircase::new(ladder(), ladder()).unwrap()
    }

    fn known(layers: usize) -> Vec<Sensitivity> {
        let of = |layer: usize, side: Side| Sensitivity {
            layer,
            side,
            loss: ((layer * 7 + side as usize * 3) % 11) as f64,
        };
        (0..layers).flat_map(|layer| Side::ALL.map(|side| of(layer, side))).collect()
    }

    #[test]
    fn the_most_sensitive_are_wide() {
        let plan = LayerPlan::new(staircase(2), staircase(4), 6).unwrap();
        let plan = plan.with_most_sensitive(&known(6), 5).unwrap();
        assert_eq!((plan.count(), plan.layers()), (5, 6));
        let least_wide = known(6)
            .iter()
            .filter(|one| plan.is_wide(one.layer, one.side))
            .map(|one| one.loss)
            .fold(f64::MAX, f64::min);
        let most_narrow = known(6)
            .iter()
            .filter(|one| !plan.is_wide(one.layer, one.side))
            .map(|one| one.loss)
            .fold(0.0, f64::max);
        assert!(least_wide >= most_narrow, "{least_wide}, {most_narrow}");
        for (layer, staircase) in plan.staircases().iter().enumerate() {
            for side in Side::ALL {
                let bits = if plan.is_wide(layer, side) { 4 } else { 2 };
                assert_eq!(staircase.ladder(side).last_bits(), bits);
            }
        }
    }

    #[test]
    fn a_budget_is_kept_and_used() {
        let shape = Shape::new(4, 2, 1, 64).unwrap();
        let narrow = LayerPlan::new(staircase(2), staircase(4), 6).unwrap();
        let (least, tokens) = (narrow.bytes(&shape, 4096), 4096);
        let each = narrow.cost(Side::Keys, &shape, tokens);
        assert!(each > 0);
        for count in 0..=12 {
            let bytes = least + count * each + each / 2;
            let plan = narrow.clone().within_bytes(&known(6), &shape, tokens, bytes).unwrap();
            assert!(plan.bytes(&shape, tokens) <= bytes);
            // Keys and values cost alike here, so that this is the same as counting.
            let by_count = narrow.clone().with_most_sensitive(&known(6), count as usize).unwrap();
            assert_eq!(plan, by_count, "{count}");
        }
        let refused = narrow.within_bytes(&known(6), &shape, tokens, least - 1).unwrap_err();
        assert_eq!(refused.argument(), Some("bytes"));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let other = staircase(4).with_codec(Codec::Rotated { fine_tokens: 1 }).unwrap();
        for wide in [other, staircase(4).with_sinks(9), staircase(4).with_residual(7).unwrap()] {
            assert_eq!(LayerPlan::new(staircase(2), wide, 3).unwrap_err().argument(), Some("wide"));
        }
        // One drops tokens, the other doesn't.
        assert_eq!(LayerPlan::new(staircase(0), staircase(4), 3).unwrap_err().argument(), Some("values"));
        let plan = LayerPlan::new(staircase(2), staircase(4), 3).unwrap();
        for bad in [
            Sensitivity { layer: 3, side: Side::Keys, loss: 1.0 },
            Sensitivity { layer: 0, side: Side::Keys, loss: f64::NAN },
        ] {
            assert_eq!(plan.clone().with_most_sensitive(&[bad], 1).unwrap_err().argument(), Some("known"));
        }
    }

    #[cfg(feature = "serde")]
    #[test]
    fn plans_are_written_and_read() {
        let rotated = |staircase: Staircase| staircase.with_codec(Codec::Rotated { fine_tokens: 1 }).unwrap();
        let plan = LayerPlan::new(rotated(staircase(2)), rotated(staircase(4)), 4).unwrap();
        let plan = plan.with_most_sensitive(&known(4), 3).unwrap();
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<LayerPlan>(&text).unwrap(), plan);
        for staircase in [Staircase::plain(), Staircase::recommended().with_summaries(32).unwrap()] {
            let text = serde_json::to_string(&staircase).unwrap();
            assert_eq!(serde_json::from_str::<Staircase>(&text).unwrap(), staircase);
        }
        // What no constructor would take isn't read either.
        for (good, bad) in
            [("[2]", "[5]"), ("[8,2]", "[2,2]"), ("\"group\":32", "\"group\":31"), ("[4]", "[0]")]
        {
            let other = text.replacen(good, bad, 1);
            assert!(other != text && serde_json::from_str::<LayerPlan>(&other).is_err(), "{other}");
        }
    }
}
