//! A language model that counts: interpolated Kneser-Ney with three discounts for each order, as
//! Chen and Goodman (1999) found it best, over tokens.

use std::collections::HashMap;
use std::hash::Hash;

/// Tokens that a model looks at at most, with the one that it predicts.
pub const ORDER: usize = 5;
/// Bits of an id: five fit into 128.
const ID_BITS: u32 = 24;

/// Tokens one behind the other, the last one lowest.
type Gram = u128;

/// A model of some text.
pub struct KneserNey {
    /// What is known by the number of tokens, from one on.
    orders: Vec<Order>,
    pieces: usize,
}

/// What is known of so many tokens.
struct Order {
    /// How often they occur; below the highest order, behind how many different tokens.
    counts: HashMap<Gram, u32, foldhash::fast::RandomState>,
    /// What stands before the last token, with what follows it.
    contexts: HashMap<Gram, Context, foldhash::fast::RandomState>,
    /// The discounts of counts of one, of two, and of more.
    discounts: [f64; 3],
}

/// The tokens that follow some others, counted.
#[derive(Clone, Copy, Default)]
struct Context {
    /// The sum of all counts.
    total: u64,
    /// Different tokens with a count of one, of two, and of more.
    distinct: [u32; 3],
}

impl KneserNey {
    /// Counts a text with ids below `pieces`, of five tokens.
    pub fn new(text: &[u32], pieces: usize) -> Self {
        Self::of_order(ORDER, text, pieces)
    }

    /// Counts a text with ids below `pieces`, of so many tokens, one to [`ORDER`].
    pub fn of_order(order: usize, text: &[u32], pieces: usize) -> Self {
        assert!(pieces <= 1 << ID_BITS, "ids have {ID_BITS} bits");
        let highest = order.clamp(1, ORDER);
        let mut grams: Vec<(Gram, u32)> = counted(grams(text, highest).collect());
        let mut orders = Vec::new();
        for order in (1..=highest).rev() {
            orders.push(Order::new(&grams));
            if order > 1 {
                // Each different sequence adds one to what it is without its first token.
                let without_first = Gram::MAX >> (128 - ID_BITS * (order as u32 - 1));
                grams = counted(grams.iter().map(|&(gram, _)| gram & without_first).collect());
            }
        }
        orders.reverse();
        Self { orders, pieces }
    }

    /// Bits of a text, each token by what stands before it.
    pub fn bits(&self, text: &[u32]) -> f64 {
        let bits = |at: usize| {
            let before = &text[at.saturating_sub(self.orders.len() - 1)..at];
            -self.probability(before, text[at]).log2()
        };
        (0..text.len()).map(bits).sum()
    }

    /// The probability of a token behind others, of which the last ones matter: one less than the
    /// model has tokens.
    pub fn probability(&self, before: &[u32], token: u32) -> f64 {
        let before = &before[before.len().saturating_sub(self.orders.len() - 1)..];
        let mut probability = 1.0 / self.pieces as f64;
        for (known, order) in self.orders.iter().enumerate().take(before.len() + 1) {
            let context = gram(&before[before.len() - known..]);
            probability = order.interpolated(context, token, probability);
        }
        probability
    }
}

impl Order {
    fn new(grams: &[(Gram, u32)]) -> Self {
        let mut contexts: HashMap<Gram, Context, foldhash::fast::RandomState> = HashMap::default();
        let mut of_counts = [0u64; 4];
        for &(gram, count) in grams {
            let context = contexts.entry(gram >> ID_BITS).or_default();
            context.total += u64::from(count);
            context.distinct[kind(count)] += 1;
            if let Some(number) = of_counts.get_mut(count as usize - 1) {
                *number += 1;
            }
        }
        Self { counts: grams.iter().copied().collect(), contexts, discounts: discounts(of_counts) }
    }

    fn interpolated(&self, context: Gram, token: u32, shorter: f64) -> f64 {
        let Some(Context { total, distinct }) = self.contexts.get(&context) else { return shorter };
        let count = self.counts.get(&(context << ID_BITS | Gram::from(token))).copied().unwrap_or(0);
        let kept = if count == 0 { 0.0 } else { f64::from(count) - self.discounts[kind(count)] };
        let taken: f64 = distinct.iter().zip(self.discounts).map(|(&of, each)| f64::from(of) * each).sum();
        (kept + taken * shorter) / *total as f64
    }
}

fn kind(count: u32) -> usize {
    count.min(3) as usize - 1
}

/// The discounts, from how many sequences have a count of 1 to 4. Short texts lack some of them:
/// then a half, the middle of what a discount may be, is as good as any.
fn discounts(of: [u64; 4]) -> [f64; 3] {
    let [one, two, three, four] = of.map(|number| number as f64);
    let share = one / (one + 2.0 * two);
    let each = [(1.0, two / one), (2.0, three / two), (3.0, four / three)];
    each.map(|(count, ratio)| {
        let discount = count - (count + 1.0) * share * ratio;
        if discount.is_finite() { discount.clamp(0.0, count) } else { 0.5 }
    })
}

fn gram(ids: &[u32]) -> Gram {
    ids.iter().fold(0, |gram, &id| gram << ID_BITS | Gram::from(id))
}

fn grams(text: &[u32], order: usize) -> impl Iterator<Item = Gram> {
    text.windows(order).map(gram)
}

/// Each once, in order, with how often it was there.
fn counted<T: Ord + Copy + Hash>(mut all: Vec<T>) -> Vec<(T, u32)> {
    all.sort_unstable();
    all.chunk_by(|a, b| a == b).map(|same| (same[0], same.len() as u32)).collect()
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn text(seed: u64, len: usize) -> Vec<u32> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut at = 0;
        (0..len)
            .map(|_| {
                at = if rng.random_bool(0.7) { (at * 5 + 1) % 11 } else { rng.random_range(0..11) };
                at
            })
            .collect()
    }

    /// Whatever stands before, the probabilities of all tokens are 1 together.
    #[test]
    fn probabilities_add_up() {
        let model = KneserNey::new(&text(1, 3000), 12);
        let other = text(2, 200);
        for at in 0..other.len() {
            let sum: f64 = (0..12).map(|token| model.probability(&other[..at], token)).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{at}: {sum}");
        }
        // A token that was never seen has some, too.
        assert!(model.probability(&other[..10], 11) > 0.0);
    }

    /// Fewer tokens know less of such a text, and their probabilities add up as well.
    #[test]
    fn shorter_models_know_less() {
        let (train, other) = (text(1, 20_000), text(3, 2000));
        let [one, two, five] = [1, 2, 5].map(|order| KneserNey::of_order(order, &train, 11));
        assert!(two.bits(&other) < one.bits(&other) - 500.0);
        assert_eq!(five.bits(&other), KneserNey::new(&train, 11).bits(&other));
        let sum: f64 = (0..11).map(|token| two.probability(&other[..9], token)).sum();
        assert!((sum - 1.0).abs() < 1e-9, "{sum}");
    }

    /// Against counts by hand: 0 1 0 1 0 2, in which two tokens follow 0.
    #[test]
    fn a_small_text_by_hand() {
        let text = [0, 1, 0, 1, 0, 2];
        let bigram = counted(grams(&text, 2).collect());
        assert_eq!(bigram, [(1, 2), (2, 1), (1 << 24, 2)]);
        let order = Order::new(&bigram);
        // One sequence comes once and two come twice: 1 / (1 + 2·2) = 0.2.
        assert_eq!(order.discounts[0], 1.0 - 2.0 * 0.2 * 2.0);
        assert_eq!(order.discounts[1], 2.0);
        let found = order.interpolated(0, 1, 0.25);
        let (kept, taken) = (2.0 - 2.0, 0.2 + 2.0);
        assert!((found - (kept + taken * 0.25) / 3.0).abs() < 1e-12, "{found}");
        assert_eq!(order.interpolated(7, 1, 0.25), 0.25);
    }

    /// It learns what there is to learn: the text's own kind is cheaper than noise, and longer
    /// contexts help.
    #[test]
    fn order_in_a_text_is_found() {
        let model = KneserNey::new(&text(1, 20_000), 11);
        let bits = model.bits(&text(3, 2000)) / 2000.0;
        // −0.7·log₂(0.7 + 0.3/11) − 0.3·(10/11)·log₂(0.3/11) or so.
        assert!((1.5..2.3).contains(&bits), "{bits}");
        let noise: Vec<u32> = (0..2000u32).map(|at| at.wrapping_mul(2654435769) >> 16 & 7).collect();
        assert!(model.bits(&noise) / 2000.0 > bits + 0.5);
    }
}
