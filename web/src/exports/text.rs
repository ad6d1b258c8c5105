//! The panels on text: sub-words, and a model that writes.

use std::cell::RefCell;

use js_sys::{Error as JsError, Float64Array, Function};
use wasm_bindgen::prelude::*;

use super::{JsResult, context, object, refused, thrown};
use crate::generate::{self, Header, Loader, Refused, Writer};
use crate::subwords::Subwords;

thread_local! {
    static SUBWORDS: RefCell<Option<Subwords>> = RefCell::default();
    static LOADER: RefCell<Option<Loader>> = RefCell::default();
    static WRITER: RefCell<Option<Writer>> = RefCell::default();
}

/// An error of JavaScript whose name is the kind of refusal.
fn no_model(refused: Refused) -> JsValue {
    let error = JsError::new(&refused.to_string());
    error.set_name(refused.kind());
    error.into()
}

/// Trains vocabularies of both kinds on a text, of so many pieces.
#[wasm_bindgen]
pub fn train(text: &[u8], size: usize, progress: Function) -> JsResult<()> {
    console_error_panic_hook::set_once();
    let subwords = Subwords::train(text, size, |round, rounds| {
        let _ = progress.call3(&JsValue::NULL, &"".into(), &round.into(), &rounds.into());
    });
    SUBWORDS.set(Some(subwords.map_err(thrown)?));
    Ok(())
}

/// A text's pieces by both, as JSON.
#[wasm_bindgen]
pub fn cut(text: &str) -> JsResult<String> {
    SUBWORDS.with_borrow(|subwords| {
        let subwords = subwords.as_ref().ok_or_else(|| refused("no vocabulary is trained yet"))?;
        Ok(subwords.cut(text).to_string())
    })
}

/// The file of a small random model, for tests.
#[wasm_bindgen]
pub fn tiny() -> Vec<u8> {
    generate::tiny::file()
}

/// Begins with a model by the first bytes of its file, which has `length` in all: where its pieces
/// lie, as offsets and lengths in turn; nothing if more bytes are needed to tell.
#[wasm_bindgen]
pub fn begin(bytes: &[u8], length: f64) -> JsResult<Option<Float64Array>> {
    console_error_panic_hook::set_once();
    WRITER.set(None);
    let Some(header) = Header::read(bytes, length as u64).map_err(no_model)? else { return Ok(None) };
    let loader = Loader::new(&header, length as u64).map_err(no_model)?;
    let pieces = loader.pieces().iter().flat_map(|piece| [piece.offset as f64, piece.bytes as f64]);
    let pieces: Vec<f64> = pieces.collect();
    LOADER.set(Some(loader));
    Ok(Some(Float64Array::from(&pieces[..])))
}

/// Takes the bytes of a piece.
#[wasm_bindgen]
pub fn take(piece: usize, bytes: &[u8]) -> JsResult<()> {
    LOADER.with_borrow_mut(|loader| {
        let loader = loader.as_mut().ok_or_else(|| refused("no model was begun with"))?;
        loader.take(piece, bytes).map_err(no_model)
    })
}

/// Makes the model ready whose pieces were taken.
#[wasm_bindgen]
pub async fn ready() -> JsResult<()> {
    let loader = LOADER.take().ok_or_else(|| refused("no model was begun with"))?;
    let model = loader.finish().map_err(no_model)?;
    let writer = Writer::new(&context()?, model).await.map_err(thrown)?;
    WRITER.set(Some(writer));
    Ok(())
}

/// The tokens of a text, of which the memory is empty now.
#[wasm_bindgen]
pub fn start(text: &str) -> JsResult<Vec<u32>> {
    WRITER.with_borrow_mut(|writer| {
        let writer = writer.as_mut().ok_or_else(|| refused("no model is loaded"))?;
        writer.start().map_err(thrown)?;
        let tokens = writer.tokens(text);
        let most = generate::MOST_TOKENS;
        match tokens.len() {
            0 => Err(refused("a text to go on with has at least one letter")),
            long if long >= most => {
                Err(refused(&format!("the text has {long} tokens, and {most} are the most")))
            }
            _ => Ok(tokens),
        }
    })
}

/// Reads a token; gives the one that it expects next, its bytes, and the memory's as JSON. Without
/// a token the text ends here.
#[wasm_bindgen]
pub async fn read(token: u32) -> JsResult<JsValue> {
    let mut writer = WRITER.take().ok_or_else(|| refused("no model is loaded, or it is busy"))?;
    let found = writer.read(token).await;
    // Where the device is lost, the model is of no use any more.
    found.map_err(thrown)?;
    let next = writer.likeliest();
    let bytes = next.map_or(Vec::new(), |next| writer.bytes(next).to_vec());
    let read = object(&[
        ("next", next.map_or(JsValue::NULL, JsValue::from)),
        ("bytes", js_sys::Uint8Array::from(&bytes[..]).into()),
        ("memory", writer.memory().to_string().into()),
    ]);
    WRITER.set(Some(writer));
    Ok(read)
}

/// Whether all of the text could be stored.
#[wasm_bindgen]
pub async fn stored() -> JsResult<()> {
    let writer = WRITER.take().ok_or_else(|| refused("no model is loaded, or it is busy"))?;
    let checked = writer.check().await.map_err(thrown);
    WRITER.set(Some(writer));
    checked
}
