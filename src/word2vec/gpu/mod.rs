//! Training on a device: the kernels, what they read, and who calls them.

mod checkpoint;
pub(crate) mod params;
pub(crate) mod programs;
mod step;
pub(super) mod training;

#[cfg(test)]
mod mutants;
#[cfg(test)]
mod tests;
