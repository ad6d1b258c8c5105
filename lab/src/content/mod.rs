//! Blocks chosen by content against blocks chosen by distance, token by token: how far the model's
//! predictions are from those of dense attention, at how many bytes read.
//!
//! All but the last tokens of a window are read densely, once ([`memory`]). The last ones are read
//! under each rule, in all layers without a window of their own, and each token chooses its blocks
//! by its own query, as it would when text is generated ([`steps`]). What comes of it is compared
//! with dense attention's predictions for the same tokens ([`compare`]).

pub mod compare;
pub mod memory;
pub mod passkeys;
pub mod rules;
pub mod steps;
#[cfg(test)]
mod tests;
