//! What the page's workers call. Numbers come in one by one, results go out as objects of
//! JavaScript: arrays of numbers where there are many, JSON for the rest.

#[cfg(feature = "device")]
mod device;
#[cfg(feature = "explore")]
mod explore;
#[cfg(feature = "text")]
mod text;

use std::cell::RefCell;

use js_sys::{Error as JsError, Function};
#[cfg(any(feature = "explore", feature = "text"))]
use js_sys::{Object, Reflect};
use prflash::{Context, DType, Layout, Tensor};
use wasm_bindgen::prelude::*;

type JsResult<T> = Result<T, JsValue>;

thread_local! {
    static CONTEXT: RefCell<Option<Context>> = RefCell::default();
}

/// An error of JavaScript whose name is the kind of the library's.
fn thrown(error: prflash::Error) -> JsValue {
    let thrown = JsError::new(&error.to_string());
    thrown.set_name(&format!("{:?}", error.kind()));
    thrown.into()
}

#[cfg(any(feature = "explore", feature = "text"))]
fn refused(message: &str) -> JsValue {
    JsError::new(message).into()
}

#[cfg(any(feature = "explore", feature = "text"))]
fn object(fields: &[(&str, JsValue)]) -> JsValue {
    let object = Object::new();
    for (name, value) in fields {
        // A new object takes any field.
        let _ = Reflect::set(&object, &(*name).into(), value);
    }
    object.into()
}

fn context() -> JsResult<Context> {
    let context = CONTEXT.with_borrow(Clone::clone);
    context.ok_or_else(|| JsError::new("no device is open").into())
}

/// Opens the device, or a new one where one was lost; gives what it is, as JSON.
#[wasm_bindgen]
pub async fn open() -> JsResult<String> {
    console_error_panic_hook::set_once();
    let context = Context::new().await.map_err(thrown)?;
    let described = crate::described(&context).to_string();
    #[cfg(feature = "explore")]
    explore::forget_device();
    CONTEXT.set(Some(context));
    Ok(described)
}

/// Asks for tensors of so many mebibytes, one after the other and up to a count, until the browser
/// refuses one; gives how many it gave. They are given back in the end.
#[wasm_bindgen]
pub async fn exhaust(mebibytes: usize, count: usize, progress: Function) -> JsResult<usize> {
    let context = context()?;
    let mut tensors = Vec::new();
    for _ in 0..count {
        let layout = Layout::heads_first(1, 1, mebibytes << 10, 256).map_err(thrown)?;
        tensors.push(Tensor::zeros(&context, DType::F32, layout).map_err(thrown)?);
        context.check().await.map_err(thrown)?;
        let _ = progress.call3(&JsValue::NULL, &"".into(), &tensors.len().into(), &count.into());
    }
    Ok(tensors.len())
}
