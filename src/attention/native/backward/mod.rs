//! The backward pass on CPU cores.
//!
//! First every row is written down as scores see it (`rows`). Then a task is a tile of queries,
//! whose gradient it computes over the keys that they see, or a tile of keys, whose gradients and
//! those of whose values it computes over all queries that see them (`tile`). Both are the same
//! loop with queries and keys in each other's place, so products, masks and distances are those of
//! the forward pass. Between the products lie the weights and their gradients (`weights`).

#[cfg(test)]
mod mutants;
mod operands;
mod plan;
mod rows;
mod tile;
mod weights;
mod wrong;

pub use operands::NativeBackwardOperands;
pub use plan::NativeBackwardPlan;
