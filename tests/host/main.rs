//! Tests of what the host decides, which need no device.

mod cache;
mod calibration;
mod documents;
mod positions;
mod sampling;
mod verify;
