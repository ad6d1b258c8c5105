//! Tests of what the host decides, which need no device.

mod cache;
mod calibration;
mod content;
mod documents;
mod positions;
mod sampling;
mod verify;
