//! What the page of prflash computes, in the browser's GPU process and in workers of the page.
//!
//! Everything but `exports` is the same on every platform, so that tests compare the page's
//! numbers with those of a native run (`tests/golden.rs`).

#[cfg(feature = "device")]
pub mod device;
#[cfg(feature = "explore")]
pub mod explore;
#[cfg(target_arch = "wasm32")]
mod exports;
#[cfg(feature = "explore")]
pub mod fixture;
#[cfg(feature = "text")]
pub mod generate;
#[cfg(feature = "explore")]
pub mod positions;
#[cfg(feature = "explore")]
pub mod staircase;
#[cfg(feature = "text")]
pub mod subwords;

use prflash::Context;
use serde_json::{Value, json};

/// Names and limits of a device.
pub fn described(context: &Context) -> Value {
    let capabilities = context.capabilities();
    json!({
        "adapter": capabilities.adapter,
        "driver": capabilities.driver,
        "backend": format!("{:?}", capabilities.backend),
        "device_type": format!("{:?}", capabilities.device_type),
        "subgroups": capabilities.subgroup_sizes.map(|(least, most)| [least, most]),
        "f16_arithmetic": capabilities.f16_arithmetic,
        "timestamps": capabilities.timestamps,
        "storage_binding_bytes": capabilities.max_binding_bytes,
        "buffer_bytes": capabilities.max_buffer_bytes,
        "workgroup_invocations": capabilities.max_workgroup_invocations,
        "workgroup_bytes": capabilities.max_workgroup_bytes,
    })
}
