//! The arithmetic of codes, in integers: what a GPU must compute to hold the same bits.
//!
//! f16 numbers are u16 bit patterns and words are u32, as in a kernel. Nothing here divides or
//! rounds a float to decide a code.
//!
//! `bits` is one of [`WIDTHS`] wherever it is asked for, and groups hold finite numbers; other
//! widths and groups give codes that mean nothing.
//!
//! # A group and its codes
//!
//! A group of values keeps its exact extremes ([`Extremes`], 32 bits) and a code of b bits per
//! value:
//!
//! ```text
//! code = (2·t·N + R) / (2R)        N = 2^b − 1, integer division; 0 where R = 0
//! x̂    = min + code·(max − min)/N
//! ```
//!
//! `t` and R are `x − min` and `max − min`, scaled by one power of two ([`Scaled`]):
//!
//! 1. A finite f16 is `±m·2^e` in units of 2⁻²⁴, with `m < 2¹¹` and `e = max(exponent field, 1) −
//!    1`, at most 29.
//! 2. `A_s(x) = ±(m·2^(e−s))`, rounded to nearest with halves away from zero where `e < s`.
//! 3. Let E be the larger e of min and max, and `s₀ = max(E − 10, 0)`: at that scale all magnitudes
//!    are below 2²¹, so `R₀ = A(max) − A(min) < 2²²`.
//! 4. `s = s₀ − min(s₀, 22 − bits(R₀), 2)`: up to two spare bits are taken up, with `bits(0) = 0`.
//! 5. `t = A_s(x) − A_s(min)`, `R = A_s(max) − A_s(min) < 2²²`.
//!
//! So `2·t·N + R ≤ 511·2²² < 2³²` for b ≤ 8. Step 2 loses bits only of numbers below 2⁻¹⁰ of the
//! group's largest magnitude, and then `R ≥ 2²¹`; hence the bound
//!
//! ```text
//! |x − x̂| ≤ range/(2N) + 2⁻²²·range
//! ```
//!
//! in exact arithmetic. In f32, [`Extremes::value`] fixes the order of the operations and what they
//! add.
//!
//! # Stepping down
//!
//! From b to b' bits, `N' = 2^b' − 1`, extremes unchanged ([`step_down`]):
//!
//! ```text
//! code' = (2·code·N' + N) / (2N)
//! ```
//!
//! Where N' divides N (8 → 4 → 2 bits), `r = N/N'` is odd and this is `(2·code + r) / (2r)`. With
//! `y = t·N'/R` and `⌊·⌋` of integer division, `code = ⌊r·y + ½⌋`, and since `(r − 1)/2` is an
//! integer, `code' = ⌊(⌊r·y + ½⌋ + (r − 1)/2)/r⌋ = ⌊y + ½⌋`: the code that quantizing x at b' bits
//! gives. Other steps take the nearest of the coarser levels to x̂ (N is odd: there are no ties),
//! so their errors add up.
//!
//! # Packing
//!
//! Code i of a run occupies the bits `b·i .. b·(i + 1)` of its words, least significant first.
//! Widths 8, 4 and 2 never straddle two words; 32 codes of 3 bits fill 3 words, and the codes 10
//! and 21 straddle.

/// The widths a code may have, in bits.
pub const WIDTHS: [u32; 4] = [8, 4, 3, 2];

/// The largest code: `2^bits − 1` (all ones from 32 bits on).
pub const fn levels(bits: u32) -> u32 {
    if bits < 32 { (1 << bits) - 1 } else { u32::MAX }
}

/// Whether an f16 is a number: neither NaN nor infinite.
pub const fn is_finite(half: u16) -> bool {
    half & 0x7c00 != 0x7c00
}

/// The smallest and the largest value of a group, as f16 bits; one word in storage, `min | max <<
/// 16`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Extremes {
    /// The smallest value.
    pub min: u16,
    /// The largest value.
    pub max: u16,
}

impl Extremes {
    /// Of finite values; −0 is below +0. Both are +0 if there are none.
    pub fn of(halves: impl IntoIterator<Item = u16>) -> Self {
        let mut halves = halves.into_iter();
        let Some(first) = halves.next() else { return Self::default() };
        halves.fold(Self { min: first, max: first }, |Self { min, max }, half| Self {
            min: if order(half) < order(min) { half } else { min },
            max: if order(half) > order(max) { half } else { max },
        })
    }

    /// The extremes in a word of storage.
    pub const fn from_word(word: u32) -> Self {
        Self { min: word as u16, max: (word >> 16) as u16 }
    }

    /// The word in storage.
    pub const fn to_word(self) -> u32 {
        self.min as u32 | (self.max as u32) << 16
    }

    /// `max − min`, exact.
    pub fn range(self) -> f64 {
        f64::from(to_f32(self.max)) - f64::from(to_f32(self.min))
    }

    /// `x̂` in f32: `min + code·((max − min)·(1/N))`, the reciprocal of N rounded to f32 first,
    /// each other operation rounded once.
    ///
    /// A device that fuses or reorders them, or this, differs from [`exact`](Extremes::exact) by at
    /// most `2⁻²²·range + 2⁻²³·max(|min|, |max|)`.
    pub fn value(self, code: u32, bits: u32) -> f32 {
        let (min, max) = (to_f32(self.min), to_f32(self.max));
        min + code as f32 * ((max - min) * (1.0 / levels(bits) as f32))
    }

    /// `x̂ = min + code·range/N` in f64.
    pub fn exact(self, code: u32, bits: u32) -> f64 {
        f64::from(to_f32(self.min)) + f64::from(code) * self.range() / f64::from(levels(bits))
    }

    /// What a code needs of the group.
    pub fn scaled(self) -> Scaled {
        let coarse = parts(self.min).1.max(parts(self.max).1).saturating_sub(10);
        let range = aligned(self.max, coarse).wrapping_sub(aligned(self.min, coarse));
        // Of finite extremes, 10 bits are always zeros.
        let spare = range.leading_zeros().saturating_sub(10).min(2);
        let shift = coarse - coarse.min(spare);
        let low = aligned(self.min, shift);
        Scaled { shift, low, range: aligned(self.max, shift).wrapping_sub(low).unsigned_abs() }
    }
}

/// The extremes of a group in integers, in units of 2^(shift − 24).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scaled {
    /// The shift s by which all numbers of the group are scaled.
    pub shift: u32,
    /// The smallest number of the group, scaled: `A_s(min)`.
    pub low: i32,
    /// R, below 2²²; 0 only if all values of the group are equal.
    pub range: u32,
}

impl Scaled {
    /// The code of a value of the group.
    pub fn code(self, half: u16, bits: u32) -> u32 {
        let t = aligned(half, self.shift).wrapping_sub(self.low).unsigned_abs();
        // In range for values of the group; the quotient is 0 where R = 0.
        let product = t.wrapping_mul(2).wrapping_mul(levels(bits)).wrapping_add(self.range);
        product.checked_div(self.range.wrapping_mul(2)).unwrap_or(0)
    }
}

/// The code at `to` bits of a value that has this code at `from` bits: the nearest level. See the
/// [module](self).
pub const fn step_down(code: u32, from: u32, to: u32) -> u32 {
    let (from, to) = (levels(from), levels(to));
    let product = code.wrapping_mul(2).wrapping_mul(to).wrapping_add(from);
    match product.checked_div(from.wrapping_mul(2)) {
        Some(code) => code,
        None => 0,
    }
}

/// Whether stepping down from one width to the next gives the codes of direct quantization: 16 bits
/// hold the value itself, and 0 bits nothing.
pub const fn nests(from: u32, to: u32) -> bool {
    from == 16 || to == 0 || levels(from).is_multiple_of(levels(to))
}

/// Writes code `index` of a run into words that hold zeros there.
pub(crate) fn put(words: &mut [u32], bits: u32, index: usize, code: u32) {
    let (word, at) = place(bits, index);
    words[word] |= code << at;
    if at + bits > 32 {
        words[word + 1] |= code >> (32 - at);
    }
}

/// Code `index` of a run.
pub(crate) fn get(words: &[u32], bits: u32, index: usize) -> u32 {
    let (word, at) = place(bits, index);
    let mut code = words[word] >> at;
    if at + bits > 32 {
        code |= words[word + 1] << (32 - at);
    }
    code & levels(bits)
}

/// Word and first bit of code `index`.
fn place(bits: u32, index: usize) -> (usize, u32) {
    let bit = bits as usize * index;
    (bit / 32, (bit % 32) as u32)
}

/// A number that orders finite f16s as the numbers they are.
fn order(half: u16) -> u16 {
    if half & 0x8000 != 0 { !half } else { half | 0x8000 }
}

/// `m` and `e` of |x| = m·2^e·2⁻²⁴.
pub(super) fn parts(half: u16) -> (u32, u32) {
    let (field, fraction) = (u32::from(half >> 10 & 31), u32::from(half & 0x3ff));
    if field == 0 { (fraction, 0) } else { (fraction | 0x400, field - 1) }
}

/// A number scaled by a shift: `A_s(x)`.
pub(super) fn aligned(half: u16, shift: u32) -> i32 {
    let (m, e) = parts(half);
    let magnitude = if e >= shift {
        m << (e - shift)
    } else {
        // Shifts of a group drop less than 32 bits; more leave nothing.
        let drop = shift - e;
        1u32.checked_shl(drop - 1).and_then(|half| (m + half).checked_shr(drop)).unwrap_or(0)
    } as i32;
    if half & 0x8000 != 0 { magnitude.wrapping_neg() } else { magnitude }
}

pub(crate) fn to_f32(half: u16) -> f32 {
    half::f16::from_bits(half).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Any finite f16.
    fn half() -> impl Strategy<Value = u16> {
        any::<u16>().prop_map(|bits| if is_finite(bits) { bits } else { bits & 0xbfff })
    }

    #[test]
    fn stepping_down_is_the_integer_ratio_where_widths_nest() {
        for (from, to, r) in [(8, 4, 17), (4, 2, 5), (8, 2, 85)] {
            assert!(nests(from, to));
            for code in 0..=levels(from) {
                assert_eq!(step_down(code, from, to), (2 * code + r) / (2 * r));
            }
        }
        assert!(!nests(8, 3) && !nests(4, 3) && !nests(3, 2));
        for (from, to) in [(8, 3), (4, 3), (3, 2)] {
            for code in 0..=levels(from) {
                let near = f64::from(code) * f64::from(levels(to)) / f64::from(levels(from));
                assert_eq!(f64::from(step_down(code, from, to)), near.round());
            }
        }
    }

    #[test]
    fn extremes_in_integers_have_22_bits() {
        let cases = [
            (0xfbff, 0x7bff), // ±65504
            (0x8001, 0x0001), // ±2⁻²⁴
            (0x0001, 0x7bff),
            (0x7bfe, 0x7bff),
            (0x8000, 0x0000), // −0 and 0
            (0x03ff, 0x0400), // around the smallest normal number
        ];
        for (min, max) in cases {
            let group = Extremes { min, max };
            let scaled = group.scaled();
            assert!(scaled.range < 1 << 22, "{group:?}: {scaled:?}");
            assert_eq!(scaled.range == 0, group.range() == 0.0);
            for bits in WIDTHS {
                let top = if scaled.range == 0 { 0 } else { levels(bits) };
                assert_eq!((scaled.code(min, bits), scaled.code(max, bits)), (0, top));
            }
        }
    }

    #[test]
    fn extremes_order_zeros_and_signs() {
        assert_eq!(Extremes::of([0x0000, 0x8000, 0x0000]), Extremes { min: 0x8000, max: 0x0000 });
        assert_eq!(Extremes::of([0x3c00, 0xc000, 0xbc00]), Extremes { min: 0xc000, max: 0x3c00 });
        assert_eq!(Extremes::of([]), Extremes::default());
        assert_eq!(Extremes::from_word(Extremes { min: 1, max: 2 }.to_word()), Extremes { min: 1, max: 2 });
    }

    /// Widths that there aren't, and numbers that no group may hold, give some number.
    #[test]
    fn nonsense_is_total() {
        for (min, max) in [(0xfc00, 0x7c00), (0x7fff, 0xffff), (0x7c00, 0x0000), (0x3c00, 0xbc00)] {
            let group = Extremes { min, max };
            let forged = Scaled { shift: u32::MAX, low: i32::MIN, range: u32::MAX };
            for bits in [0, 1, 16, 31, 32, 33, u32::MAX] {
                for half in [0x0000, 0x7bff, 0x7c00, 0xffff] {
                    let _ = (group.scaled().code(half, bits), forged.code(half, bits));
                }
                let _ = (group.value(u32::MAX, bits), group.exact(u32::MAX, bits), group.range());
                for to in [0, 2, 32, u32::MAX] {
                    let _ = (step_down(u32::MAX, bits, to), nests(bits, to));
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn codes_are_near_and_path_independent(values in prop::collection::vec(half(), 3)) {
            let group = Extremes::of(values.iter().copied());
            let scaled = group.scaled();
            prop_assert!(scaled.range < 1 << 22);
            for &x in &values {
                for bits in WIDTHS {
                    let code = scaled.code(x, bits);
                    let exact = group.exact(code, bits);
                    let bound = group.range() * (0.5 / f64::from(levels(bits)) + 1.0 / f64::from(1 << 22));
                    prop_assert!((exact - f64::from(to_f32(x))).abs() <= bound, "{x:#x} {bits} {group:?}");
                    let largest = f64::from(to_f32(group.min).abs().max(to_f32(group.max).abs()));
                    let rounding = group.range() / f64::from(1 << 22) + largest / f64::from(1 << 23);
                    prop_assert!((f64::from(group.value(code, bits)) - exact).abs() <= rounding);
                }
                let eight = scaled.code(x, 8);
                let four = step_down(eight, 8, 4);
                prop_assert_eq!(four, scaled.code(x, 4));
                prop_assert_eq!(step_down(four, 4, 2), scaled.code(x, 2));
                prop_assert_eq!(step_down(eight, 8, 2), scaled.code(x, 2));
            }
        }

        #[test]
        fn packing_round_trips(codes in prop::collection::vec(0u32..256, 32), width in 0usize..4) {
            let bits = WIDTHS[width];
            let mut words = vec![0; bits as usize];
            for (index, code) in codes.iter().enumerate() {
                put(&mut words, bits, index, code & levels(bits));
            }
            for (index, code) in codes.iter().enumerate() {
                prop_assert_eq!(get(&words, bits, index), code & levels(bits));
            }
        }
    }
}
