//! Matrices of 4 or 8 bits, and their products with vectors.
//!
//! A row is cut into blocks of 32 weights w = d · code + m, with d and m for each block. What is
//! multiplied by it is rounded to 16 bits in blocks of its own, x = s · code, so that a block's
//! part of a product is `d · s · Σ code·code + m · s · Σ code`, with sums of integers: the same on
//! every machine. (llama.cpp rounds it to 8 bits. A few channels of SmolLM2 are thousands of times
//! as large as their neighbours, which then are all 0.)

use half::f16;

use super::Refused;

/// Weights of a block.
const BLOCK: usize = 32;

/// How the format numbers the forms that are read here.
pub(super) const F32: u32 = 0;
const Q4_0: u32 = 2;
const Q4_1: u32 = 3;
const Q8_0: u32 = 8;

/// Names for people, of all forms that files have these days.
const NAMES: [(u32, &str); 14] = [
    (0, "F32"),
    (1, "F16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (6, "Q5_0"),
    (7, "Q5_1"),
    (8, "Q8_0"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (12, "Q4_K"),
    (13, "Q5_K"),
    (14, "Q6_K"),
    (20, "IQ4_NL"),
    (30, "BF16"),
];

/// A matrix of some bits.
pub struct Matrix {
    columns: usize,
    /// d and m of each block.
    scales: Vec<[f32; 2]>,
    codes: Codes,
}

/// The codes of each block.
enum Codes {
    /// Unsigned: the first 16 in the lower halves of the bytes, the others in the upper ones.
    Four(Vec<[u8; BLOCK / 2]>),
    /// Signed.
    Eight(Vec<[i8; BLOCK]>),
}

/// A vector in 16 bits.
pub(super) struct Rounded {
    codes: Vec<[i16; BLOCK]>,
    /// s, and s times the sum of the codes, of each block.
    scales: Vec<[f32; 2]>,
}

/// Bytes that a matrix of a form takes in a file.
pub(super) fn bytes(name: &str, form: u32, [rows, columns]: [usize; 2]) -> Result<u64, Refused> {
    let block = match form {
        Q4_0 => 2 + BLOCK / 2,
        Q4_1 => 4 + BLOCK / 2,
        Q8_0 => 2 + BLOCK,
        other => {
            let known = NAMES.iter().find(|(number, _)| *number == other);
            let shown = known.map_or_else(|| format!("form {other}"), |(_, name)| (*name).to_owned());
            let why = format!("{name} is stored as {shown}; Q4_0, Q4_1 and Q8_0 are what the page reads");
            return Err(Refused::Unsupported(why));
        }
    };
    if !columns.is_multiple_of(BLOCK) {
        let why = format!("{name} has rows of {columns} weights, which aren't blocks of {BLOCK}");
        return Err(Refused::Unsupported(why));
    }
    Ok((rows as u64) * (columns / BLOCK * block) as u64)
}

impl Matrix {
    /// Reads one whose bytes are as many as [`bytes`] says.
    pub(super) fn read(form: u32, columns: usize, bytes: &[u8]) -> Self {
        let number = |block: &[u8], at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
        let four = |block: &[u8], at: usize| std::array::from_fn(|index| block[at + index]);
        match form {
            Q4_0 => {
                let blocks = || bytes.chunks_exact(2 + BLOCK / 2);
                // w = d · (code − 8)
                let scales = blocks().map(|block| number(block, 0)).map(|d| [d, -8.0 * d]).collect();
                Self { columns, scales, codes: Codes::Four(blocks().map(|block| four(block, 2)).collect()) }
            }
            Q4_1 => {
                let blocks = || bytes.chunks_exact(4 + BLOCK / 2);
                let scales = blocks().map(|block| [number(block, 0), number(block, 2)]).collect();
                Self { columns, scales, codes: Codes::Four(blocks().map(|block| four(block, 4)).collect()) }
            }
            _ => {
                let blocks = || bytes.chunks_exact(2 + BLOCK);
                let scales = blocks().map(|block| [number(block, 0), 0.0]).collect();
                let eight = |block: &[u8]| std::array::from_fn(|index| block[2 + index] as i8);
                Self { columns, scales, codes: Codes::Eight(blocks().map(eight).collect()) }
            }
        }
    }

    /// A row's weights.
    pub(super) fn row(&self, row: usize) -> Vec<f32> {
        let blocks = self.columns / BLOCK;
        let mut weights = Vec::with_capacity(self.columns);
        for at in row * blocks..(row + 1) * blocks {
            let [d, m] = self.scales[at];
            match &self.codes {
                Codes::Four(codes) => {
                    weights.extend(codes[at].iter().map(|code| d * f32::from(code & 15) + m));
                    weights.extend(codes[at].iter().map(|code| d * f32::from(code >> 4) + m));
                }
                Codes::Eight(codes) => weights.extend(codes[at].iter().map(|&code| d * f32::from(code) + m)),
            }
        }
        weights
    }

    /// The product with a vector, `[rows]`.
    pub(super) fn times(&self, x: &Rounded) -> Vec<f32> {
        let blocks = self.columns / BLOCK;
        let scales = self.scales.chunks_exact(blocks);
        match &self.codes {
            Codes::Four(codes) => {
                let rows = codes.chunks_exact(blocks).zip(scales);
                rows.map(|(codes, scales)| products::four(codes, scales, x)).collect()
            }
            Codes::Eight(codes) => {
                let rows = codes.chunks_exact(blocks).zip(scales);
                rows.map(|(codes, scales)| products::eight(codes, scales, x)).collect()
            }
        }
    }
}

impl Rounded {
    /// Rounds a vector: s is the largest magnitude of a block over 2¹⁵ − 1.
    pub(super) fn new(x: &[f32]) -> Self {
        let (mut codes, mut scales) = (Vec::new(), Vec::new());
        for block in x.chunks_exact(BLOCK) {
            let s = block.iter().fold(0.0, |most: f32, x| most.max(x.abs())) / f32::from(i16::MAX);
            let inverse = if s > 0.0 { 1.0 / s } else { 0.0 };
            let rounded: [i16; BLOCK] = std::array::from_fn(|index| (block[index] * inverse).round() as i16);
            let sum: i32 = rounded.iter().map(|&code| i32::from(code)).sum();
            codes.push(rounded);
            scales.push([s, s * sum as f32]);
        }
        Self { codes, scales }
    }
}

/// The products of a row. Four sums run beside each other, as in a register of four lanes; code c
/// of a block belongs to lane c mod 8 / 2. So both versions give the same bits.
#[cfg(not(target_arch = "wasm32"))]
mod products {
    use super::{BLOCK, Rounded};

    pub(super) fn four(codes: &[[u8; BLOCK / 2]], scales: &[[f32; 2]], x: &Rounded) -> f32 {
        sum(codes, scales, x, |block, index| match index.checked_sub(BLOCK / 2) {
            None => i32::from(block[index] & 15),
            Some(index) => i32::from(block[index] >> 4),
        })
    }

    pub(super) fn eight(codes: &[[i8; BLOCK]], scales: &[[f32; 2]], x: &Rounded) -> f32 {
        sum(codes, scales, x, |block, index| i32::from(block[index]))
    }

    fn sum<B>(codes: &[B], scales: &[[f32; 2]], x: &Rounded, code: impl Fn(&B, usize) -> i32) -> f32 {
        let (mut lanes, mut constant) = ([0.0f32; 4], 0.0);
        for (at, block) in codes.iter().enumerate() {
            let ([d, m], [s, sum]) = (scales[at], x.scales[at]);
            let mut dots = [0; 4];
            for (index, &other) in x.codes[at].iter().enumerate() {
                dots[index % 8 / 2] += code(block, index) * i32::from(other);
            }
            for (lane, dot) in lanes.iter_mut().zip(dots) {
                *lane += d * s * dot as f32;
            }
            constant += m * sum;
        }
        (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]) + constant
    }
}

/// The same in vector instructions, which every browser with WebGPU has.
#[cfg(target_arch = "wasm32")]
mod products {
    use core::arch::wasm32::{
        f32x4_add, f32x4_convert_i32x4, f32x4_extract_lane, f32x4_mul, f32x4_splat, i16x8_extend_high_i8x16,
        i16x8_extend_low_i8x16, i32x4_add, i32x4_dot_i16x8, u8x16_shr, u8x16_splat, v128, v128_and,
        v128_load,
    };

    use super::{BLOCK, Rounded};

    #[target_feature(enable = "simd128")]
    pub(super) fn four(codes: &[[u8; BLOCK / 2]], scales: &[[f32; 2]], x: &Rounded) -> f32 {
        let (mut lanes, mut constant) = (f32x4_splat(0.0), 0.0);
        for (((block, [d, m]), x), [s, sum]) in codes.iter().zip(scales).zip(&x.codes).zip(&x.scales) {
            let codes = load(block);
            let [a, b, c, e] = quarters(x);
            let dots = dot(v128_and(codes, u8x16_splat(15)), a, b);
            let dots = i32x4_add(dots, dot(u8x16_shr(codes, 4), c, e));
            lanes = f32x4_add(lanes, f32x4_mul(f32x4_splat(d * s), f32x4_convert_i32x4(dots)));
            constant += m * sum;
        }
        added(lanes) + constant
    }

    #[target_feature(enable = "simd128")]
    pub(super) fn eight(codes: &[[i8; BLOCK]], scales: &[[f32; 2]], x: &Rounded) -> f32 {
        let (mut lanes, mut constant) = (f32x4_splat(0.0), 0.0);
        for (((block, [d, m]), x), [s, sum]) in codes.iter().zip(scales).zip(&x.codes).zip(&x.scales) {
            let (halves, _) = block.as_chunks::<{ BLOCK / 2 }>();
            let [a, b, c, e] = quarters(x);
            let dots = dot(load(&halves[0]), a, b);
            let dots = i32x4_add(dots, dot(load(&halves[1]), c, e));
            lanes = f32x4_add(lanes, f32x4_mul(f32x4_splat(d * s), f32x4_convert_i32x4(dots)));
            constant += m * sum;
        }
        added(lanes) + constant
    }

    /// Sixteen bytes, wherever they lie.
    #[inline]
    #[target_feature(enable = "simd128")]
    fn load<T, const N: usize>(codes: &[T; N]) -> v128 {
        const { assert!(size_of::<T>() * N == 16) };
        // SAFETY: the bytes are there, and the instruction takes them unaligned.
        #[allow(unsafe_code)]
        unsafe {
            v128_load(codes.as_ptr().cast())
        }
    }

    #[inline]
    #[target_feature(enable = "simd128")]
    fn quarters(x: &[i16; BLOCK]) -> [v128; 4] {
        let (quarters, _) = x.as_chunks::<{ BLOCK / 4 }>();
        [load(&quarters[0]), load(&quarters[1]), load(&quarters[2]), load(&quarters[3])]
    }

    /// Products of sixteen bytes with two times eight numbers, in four sums.
    #[inline]
    #[target_feature(enable = "simd128")]
    fn dot(bytes: v128, low: v128, high: v128) -> v128 {
        let low = i32x4_dot_i16x8(i16x8_extend_low_i8x16(bytes), low);
        i32x4_add(low, i32x4_dot_i16x8(i16x8_extend_high_i8x16(bytes), high))
    }

    #[inline]
    #[target_feature(enable = "simd128")]
    fn added(lanes: v128) -> f32 {
        let low = f32x4_extract_lane::<0>(lanes) + f32x4_extract_lane::<1>(lanes);
        low + (f32x4_extract_lane::<2>(lanes) + f32x4_extract_lane::<3>(lanes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_those_of_the_rows() {
        let (rows, columns) = (5, 96);
        for form in [Q4_0, Q4_1, Q8_0] {
            let length = bytes("a matrix", form, [rows, columns]).unwrap() as usize;
            let header = length / (rows * columns / BLOCK) - if form == Q8_0 { BLOCK } else { BLOCK / 2 };
            let mut bytes: Vec<u8> = (0..length).map(|index| (index * index % 251) as u8).collect();
            let block = length / (rows * columns / BLOCK);
            for block in bytes.chunks_exact_mut(block) {
                block[..2].copy_from_slice(&f16::from_f32(0.03).to_le_bytes());
                if header == 4 {
                    block[2..4].copy_from_slice(&f16::from_f32(-0.2).to_le_bytes());
                }
            }
            let matrix = Matrix::read(form, columns, &bytes);
            let x: Vec<f32> = (0..columns).map(|index| (index as f32).sin()).collect();
            for (row, got) in matrix.times(&Rounded::new(&x)).into_iter().enumerate() {
                let row = matrix.row(row);
                let terms = || row.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x));
                let (want, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
                assert!((f64::from(got) - want).abs() <= 1e-4 * size, "form {form}: {got}, not {want}");
            }
        }
    }

    #[test]
    fn blocks_are_read_as_the_format_has_them() {
        let half = |number: f32| f16::from_f32(number).to_le_bytes();
        let four: Vec<u8> = (0..16).map(|code| code | (15 - code) << 4).collect();
        let codes = (0..16).chain((0..16).rev()).map(|code| code as f32);
        let read = |form, parts: &[&[u8]]| Matrix::read(form, BLOCK, &parts.concat()).row(0);
        let want: Vec<f32> = codes.clone().map(|code| 0.5 * (code - 8.0)).collect();
        assert_eq!(read(Q4_0, &[&half(0.5), &four]), want);
        let want: Vec<f32> = codes.map(|code| 0.5 * code - 3.0).collect();
        assert_eq!(read(Q4_1, &[&half(0.5), &half(-3.0), &four]), want);
        let eight: Vec<u8> = (0..32).map(|code| (code - 16i8) as u8).collect();
        let want: Vec<f32> = (-16..16).map(|code| 0.25 * code as f32).collect();
        assert_eq!(read(Q8_0, &[&half(0.25), &eight]), want);
    }
}
