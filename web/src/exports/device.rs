//! The panel on the reader's device.

use js_sys::Function;
use wasm_bindgen::prelude::*;

use super::{JsResult, context, thrown};
use crate::device;

/// All kernels beside the oracles, and speeds, as JSON.
#[wasm_bindgen]
pub async fn report(progress: Function) -> JsResult<String> {
    let context = context()?;
    let mut tell = |name: &str, done: usize, total: usize| {
        let _ = progress.call3(&JsValue::NULL, &name.into(), &done.into(), &total.into());
    };
    let report = device::report(&context, &mut tell).await.map_err(thrown)?;
    Ok(report.to_string())
}

/// The fastest kernel for a small shape, of so many that are tried, as JSON.
#[wasm_bindgen]
pub async fn tune(trials: usize) -> JsResult<String> {
    let tuned = device::tune(&context()?, trials).await.map_err(thrown)?;
    Ok(tuned.to_string())
}
