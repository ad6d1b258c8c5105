//! The problems, their inputs, and exact rows to check results against.

use prflash::sampling::Entry;
use prflash::{Schedule, Shape};

/// An attention problem: queries sit at the end of the keys, and see no later key.
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    /// The name of it in tables.
    pub name: &'static str,
    pub heads: usize,
    pub kv_heads: usize,
    pub q_len: usize,
    pub kv_len: usize,
    pub dim: usize,
}

/// Where the inputs come from.
#[derive(Clone, Copy)]
pub enum Input {
    Queries = 1,
    Keys = 2,
    Values = 3,
    /// Of a loss with respect to the output.
    OutputGradients = 4,
}

impl Problem {
    /// What the peers are compared at.
    pub const SHAPES: [Self; 4] = [
        Self::prompt("S1", 8, 2, 1024, 64),
        Self::prompt("S2", 8, 2, 4096, 64),
        Self::prompt("S3", 32, 8, 1024, 128),
        { Self { q_len: 1, ..Self::prompt("S4", 32, 8, 8192, 128) } },
    ];

    /// As many queries as keys.
    pub const fn prompt(name: &'static str, heads: usize, kv_heads: usize, len: usize, dim: usize) -> Self {
        Self { name, heads, kv_heads, q_len: len, kv_len: len, dim }
    }

    /// The shape of it for prflash.
    pub fn shape(&self) -> prflash::Result<Shape> {
        Shape::new(self.heads, self.kv_heads, self.kv_len, self.dim)?.with_q_len(self.q_len)
    }

    /// Whether a single query sees every key, so that no mask is needed.
    pub fn is_decode(&self) -> bool {
        self.q_len == 1
    }

    /// Query heads on one key/value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// By the convention of the tables: 4·H·(N²/2)·D, and 4·H·kv_len·D for one query.
    pub fn flops(&self) -> f64 {
        let pairs = match self.is_decode() {
            true => self.kv_len as f64,
            false => (self.q_len * self.kv_len) as f64 / 2.0,
        };
        4.0 * self.heads as f64 * pairs * self.dim as f64
    }

    /// One line that describes it in tables.
    pub fn describe(&self) -> String {
        let Self { heads, kv_heads, kv_len, dim, .. } = self;
        match self.is_decode() {
            true => format!("decode: H = {heads}, KV = {kv_heads}, D = {dim}, one query, {kv_len} keys"),
            false => format!("causal: H = {heads}, KV = {kv_heads}, N = {kv_len}, D = {dim}"),
        }
    }

    fn heads_and_len(&self, input: Input) -> (usize, usize) {
        match input {
            Input::Queries | Input::OutputGradients => (self.heads, self.q_len),
            Input::Keys | Input::Values => (self.kv_heads, self.kv_len),
        }
    }

    /// `[heads, len, dim]`.
    pub fn values(&self, input: Input) -> Vec<f32> {
        let (heads, len) = self.heads_and_len(input);
        (0..heads * len * self.dim).map(|index| value(input, index)).collect()
    }

    /// `[len, heads, dim]`.
    pub fn values_tokens_first(&self, input: Input) -> Vec<f32> {
        let (heads, len) = self.heads_and_len(input);
        let mut values = Vec::with_capacity(heads * len * self.dim);
        for token in 0..len {
            for head in 0..heads {
                let first = (head * len + token) * self.dim;
                values.extend((first..first + self.dim).map(|index| value(input, index)));
            }
        }
        values
    }

    /// Keys or values with every head as often as query heads share it, `[query heads, len, dim]`.
    pub fn values_repeated(&self, input: Input) -> Vec<f32> {
        let block = self.kv_len * self.dim;
        self.values(input).chunks(block).flat_map(|head| head.repeat(self.group())).collect()
    }

    /// The largest absolute difference of `output` (`[heads, queries, dim]`) from rows spread over
    /// heads and queries, computed in f64 over all keys a query sees or over the blocks that the
    /// schedule lists. NaN anywhere in the output gives NaN.
    pub fn difference_from_exact(&self, output: &[f32], schedule: Option<&Schedule>) -> f64 {
        if output.len() != self.heads * self.q_len * self.dim || output.iter().any(|x| !x.is_finite()) {
            return f64::NAN;
        }
        const ROWS: usize = 24;
        let mut largest: f64 = 0.0;
        for check in 0..ROWS {
            let head = check % self.heads;
            // The first and the last query among them.
            let query = check * (self.q_len - 1) / (ROWS - 1);
            let position = query + self.kv_len - self.q_len;
            let row = (head * self.q_len + query) * self.dim;
            let keys: Vec<usize> = match schedule {
                None => (0..=position).collect(),
                Some(schedule) => {
                    let block = schedule.grid().block_size();
                    let group = schedule.grid().group_of_head(head);
                    let keys_of = |entry: Entry| entry.block * block..(entry.block + 1) * block;
                    let listed = schedule.row(group, query / block).flat_map(keys_of);
                    listed.filter(|&key| key <= position).collect()
                }
            };
            let exact = self.exact_row(head, query, &keys);
            for (got, expected) in output[row..row + self.dim].iter().zip(&exact) {
                largest = largest.max((f64::from(*got) - expected).abs());
            }
        }
        largest
    }

    fn exact_row(&self, head: usize, query: usize, keys: &[usize]) -> Vec<f64> {
        let at = |input, row: usize, channel| f64::from(value(input, row * self.dim + channel));
        let kv_row = |key: usize| head / self.group() * self.kv_len + key;
        let query_row = head * self.q_len + query;
        let q: Vec<f64> = (0..self.dim).map(|channel| at(Input::Queries, query_row, channel)).collect();
        let score = |&key: &usize| {
            let products = q.iter().enumerate().map(|(channel, q)| q * at(Input::Keys, kv_row(key), channel));
            products.sum::<f64>() / (self.dim as f64).sqrt()
        };
        let scores: Vec<f64> = keys.iter().map(score).collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let mut row = vec![0.0; self.dim];
        for (key, weight) in keys.iter().zip(&weights) {
            for (channel, out) in row.iter_mut().enumerate() {
                *out += weight / sum * at(Input::Values, kv_row(*key), channel);
            }
        }
        row
    }
}

/// Even in [−√3, √3), so of unit variance; a function of the place alone, so that nothing has to be
/// kept for checks.
fn value(input: Input, index: usize) -> f32 {
    // The finalizer of SplitMix64.
    let mut x = (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add((input as u64) << 56);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let unit = ((x ^ (x >> 31)) >> 40) as f32 / (1u64 << 24) as f32;
    (2.0 * unit - 1.0) * 3f32.sqrt()
}

/// The largest absolute difference of two outputs; NaN where one has one.
pub fn difference(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return f64::NAN;
    }
    let differences = || a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs()));
    // `f64::max` drops a NaN.
    match differences().any(f64::is_nan) {
        true => f64::NAN,
        false => differences().fold(0.0, f64::max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_hold_the_same_numbers() {
        let problem = Problem::prompt("small", 4, 2, 3, 2);
        let heads_first = problem.values(Input::Keys);
        let tokens_first = problem.values_tokens_first(Input::Keys);
        let repeated = problem.values_repeated(Input::Keys);
        for (head, token, channel) in [(0, 0, 0), (1, 2, 1), (0, 1, 1)] {
            let expected = heads_first[(head * 3 + token) * 2 + channel];
            assert_eq!(tokens_first[(token * 2 + head) * 2 + channel], expected);
            for copy in 0..2 {
                assert_eq!(repeated[((2 * head + copy) * 3 + token) * 2 + channel], expected);
            }
        }
        let mean = heads_first.iter().sum::<f32>();
        assert!(mean.abs() < 12.0 && heads_first.iter().all(|x| x.abs() <= 1.733));
    }

    #[test]
    fn nan_is_no_agreement() {
        assert_eq!(difference(&[1.0, 2.0], &[1.5, 2.25]), 0.5);
        assert!(difference(&[f32::NAN, 2.0], &[1.5, 2.25]).is_nan());
        assert!(difference(&[1.0, f32::NAN], &[1.5, 2.25]).is_nan());
        assert!(difference(&[1.0], &[]).is_nan());
        let problem = Problem::prompt("small", 2, 1, 2, 2);
        assert!(problem.difference_from_exact(&[f32::NAN; 8], None).is_nan());
    }

    #[test]
    fn the_oracle_agrees() {
        let problem = Problem::prompt("small", 2, 1, 1, 4);
        // One key: the output is its value.
        let output = problem.values_repeated(Input::Values);
        assert!(problem.difference_from_exact(&output, None) < 1e-12);
        let wrong: Vec<f32> = output.iter().map(|x| x + 0.5).collect();
        assert!((problem.difference_from_exact(&wrong, None) - 0.5).abs() < 1e-6);
    }
}
