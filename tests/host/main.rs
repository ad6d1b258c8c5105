//! Tests of what the host decides, which need no device.

#[path = "../../examples/support/fixture.rs"]
#[allow(dead_code)]
mod fixture;
#[path = "../common/staircases.rs"]
#[allow(dead_code)]
mod staircases;

mod cache;
mod calibration;
mod positions;
mod sampling;
mod verify;
