//! What is computed, as plain values of the host: options, and what a call reads beside its
//! tensors.

pub(crate) mod attention;
pub(crate) mod content;
pub(crate) mod documents;
pub(crate) mod mask;
pub(crate) mod pages;
pub(crate) mod position_ids;
pub(crate) mod tables;
