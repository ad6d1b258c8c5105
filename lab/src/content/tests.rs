//! What comparison computes.
