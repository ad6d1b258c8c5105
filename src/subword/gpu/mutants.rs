//! Kernels with one thing wrong each, which comparison with the host has to find.
