//! Tests of what the host decides, which need no device.

#[path = "../common/mod.rs"]
mod common;

mod backward;
mod cache;
mod calibration;
mod content;
mod documents;
#[cfg(feature = "native")]
mod native;
mod positions;
mod sampling;
mod verify;
