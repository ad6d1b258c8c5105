//! Words cut on the GPU: the kernels, what they read, and who calls them.

mod packed;
pub(crate) mod params;
pub(crate) mod programs;
pub(super) mod segmenter;
pub(super) mod words;

#[cfg(test)]
mod mutants;
