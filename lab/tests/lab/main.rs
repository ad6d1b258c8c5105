//! The lab's tests, in one program: each would link all that the lab is compared with.

mod agreement;
mod cli;
mod common;
mod encodings;
mod metadata;
mod models;
mod native;
mod refusals;
mod search;
mod search_runs;
mod study;
mod subword;
mod train;
mod word2vec;
