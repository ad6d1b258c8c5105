//! The attention inputs of the page: the first tokens of the repository's fixture
//! (`fixtures/README.md`), as `web/bundle` cuts them out, a file for each layer.

use half::f16;
use prflash::position::Pairing;
use prflash::{Result, Rope, Shape};

/// Channels of a head.
pub const DIM: usize = 64;
/// Query heads, which share one key/value head.
pub const HEADS: usize = 3;

/// One KV group of one layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The layer's number in the model.
    pub index: u32,
    /// `[3, tokens, 64]`, rotated.
    pub q: Vec<f32>,
    /// `[1, tokens, 64]`, rotated.
    pub k: Vec<f32>,
    /// `[1, tokens, 64]`.
    pub v: Vec<f32>,
}

impl Layer {
    /// The sizes of its first tokens.
    ///
    /// # Errors
    /// None for as many tokens as there are.
    pub fn shape(tokens: usize) -> Result<Shape> {
        Shape::new(HEADS, 1, tokens, DIM)
    }

    /// Queries, keys and values of the first tokens.
    pub fn first(&self, tokens: usize) -> [Vec<f32>; 3] {
        let whole = self.k.len();
        [&self.q, &self.k, &self.v].map(|rows| {
            let heads = rows.chunks_exact(whole.max(1));
            heads.flat_map(|head| &head[..(tokens * DIM).min(whole)]).copied().collect()
        })
    }
}

/// Reads what `web/bundle` wrote, and turns queries and keys by their positions.
///
/// # Errors
/// A sentence that says what is wrong with the bytes.
pub fn read(bytes: &[u8]) -> Result<Layer, String> {
    let mut rest = bytes;
    let mut take = |count: usize| -> Result<&[u8], String> {
        let (taken, left) = rest.split_at_checked(count).ok_or("the attention inputs are cut off")?;
        rest = left;
        Ok(taken)
    };
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte));
    let (tokens, index) = (number(take(4)?) as usize, number(take(4)?));
    if !(1..=4096).contains(&tokens) {
        return Err(format!("expected inputs of 1 to 4096 tokens, got {tokens}"));
    }
    let mut rows = |heads: usize| -> Result<Vec<f32>, String> {
        let halves = take(2 * heads * tokens * DIM)?.chunks_exact(2);
        Ok(halves.map(|half| f16::from_le_bytes([half[0], half[1]]).to_f32()).collect())
    };
    let (mut q, mut k, v) = (rows(HEADS)?, rows(1)?, rows(1)?);
    let rope = Rope::new(DIM, 1e5, Pairing::Interleaved).map_err(|error| error.to_string())?;
    for head in q.chunks_exact_mut(tokens * DIM).chain([&mut k[..]]) {
        rope.rotate(head, 0).map_err(|error| error.to_string())?;
    }
    match rest {
        [] => Ok(Layer { index, q, k, v }),
        _ => Err(format!("{} bytes too many in the attention inputs", rest.len())),
    }
}
