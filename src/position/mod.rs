//! Positions: rotary embeddings (and, later, the biases that combine with them).

mod rope;

pub use rope::{Pairing, Rope};
