//! Caches of few bits, token by token: how far the model's predictions are from those of dense
//! attention over keys and values as they were.
//!
//! All but the last tokens of a window are read densely, once. What every layer remembers of them
//! goes into a [`HostCache`](prflash::cache::HostCache), and the last tokens are read one by one
//! behind it ([`held`]): each is appended, and sees the cache as it then stands. [`rules`] says
//! which caches, [`plan`] gives layers different ones, by what each was measured to lose, and
//! [`balance`] makes channels of keys alike.

pub mod balance;
pub mod held;
pub mod plan;
pub mod rows;
pub mod rules;
#[cfg(test)]
mod tests;
