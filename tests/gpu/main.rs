//! All tests that need a device, in one program: they share its context and the pipelines that were
//! compiled in it.

#[path = "../common/mod.rs"]
mod common;

mod backward;
mod cache_attention;
mod content;
mod device;
mod dropped_encoders;
mod kv_cache;
mod long_work;
mod masks;
mod numerics;
mod pages;
mod parity;
mod positions;
mod preparing;
mod properties;
mod real_inputs;
mod reshaped;
mod rotation;
mod rounds;
mod schedules;
mod sinks;
#[cfg(feature = "subword")]
mod subword;
mod tensors;
mod threads;
mod tuning;
mod two_devices;
