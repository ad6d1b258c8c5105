//! The cache in GPU memory: its kernels, where its words lie, and what becomes of them.

pub(crate) mod arena;
pub(crate) mod kv_cache;
pub(crate) mod ledger;
mod migration;
mod moves;
pub(crate) mod params;
pub(crate) mod programs;
pub(crate) mod region;
pub(crate) mod variant;
