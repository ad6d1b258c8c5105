//! The panels on blocks, caches and positions.

use std::cell::RefCell;

use js_sys::{Array, Float32Array, Float64Array, Function};
use wasm_bindgen::prelude::*;

use super::{JsResult, context, object, refused, thrown};
use crate::explore::{self, Explorer, Rule, Settings};
use crate::{fixture, positions, staircase};

#[derive(Default)]
struct State {
    explorer: Explorer,
    /// The oracle's output, and for which layer and length.
    exact: Option<((usize, usize), Vec<f64>)>,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

/// Works on the inputs of a layer.
fn with_layer<T>(layer: usize, work: impl FnOnce(&mut Explorer) -> Result<T, prflash::Error>) -> JsResult<T> {
    STATE.with_borrow_mut(|State { explorer, .. }| {
        if !explorer.has(layer) {
            return Err(refused(&format!("the inputs of layer {layer} aren't loaded yet")));
        }
        work(explorer).map_err(thrown)
    })
}

/// Forgets what is on the device that was open.
pub(super) fn forget_device() {
    STATE.with_borrow_mut(|state| state.explorer.forget_device());
}

/// The page's settings, as it numbers them.
#[wasm_bindgen]
#[derive(Clone, Copy)]
pub struct Choice(Settings);

#[wasm_bindgen]
impl Choice {
    /// Numbers as the page has them; those out of range are taken for the nearest.
    #[wasm_bindgen(constructor)]
    #[allow(clippy::too_many_arguments)] // one for each control of the page
    pub fn new(
        layer: usize,
        tokens: usize,
        block: usize,
        rule: usize,
        budget: usize,
        alpha: f64,
        beta: f64,
        tau: f64,
        seed: u32,
    ) -> Self {
        let rule = Rule::ALL[rule.min(Rule::ALL.len() - 1)];
        Self(Settings { layer, tokens, block, rule, budget, alpha, beta, tau, seed: seed.into() })
    }
}

/// Takes the attention inputs of a layer, by the page's number; gives the model's.
#[wasm_bindgen]
pub fn load(layer: usize, bytes: &[u8]) -> JsResult<u32> {
    console_error_panic_hook::set_once();
    let inputs = fixture::read(bytes).map_err(|error| refused(&error))?;
    let index = inputs.index;
    STATE.with_borrow_mut(|state| state.explorer.take(layer, inputs));
    Ok(index)
}

/// The blocks that a rule visits: the picture, and numbers.
#[wasm_bindgen]
pub fn schedule(choice: &Choice) -> JsResult<JsValue> {
    let settings = choice.0;
    let (schedule, picture) = with_layer(settings.layer, |explorer| {
        let schedule = explorer.schedule(&settings)?;
        let picture = explorer.picture(&settings, &schedule)?;
        Ok((schedule, picture))
    })?;
    let grid = schedule.grid();
    Ok(object(&[
        ("picture", Float32Array::from(&picture[..]).into()),
        ("rows", grid.query_blocks().into()),
        ("visited", (schedule.visited_blocks() as f64).into()),
        ("dense", (grid.dense_blocks() as f64).into()),
        ("checksum", format!("{:016x}", explore::checksum(&schedule)).into()),
    ]))
}

/// The oracle: dense attention in f64, and the mean mass of each (head, query block, key block).
#[wasm_bindgen]
pub fn exact(choice: &Choice) -> JsResult<JsValue> {
    let settings = choice.0;
    let (exact, mass) = with_layer(settings.layer, |explorer| explorer.exact(&settings))?;
    let grid = Explorer::grid(&settings).map_err(thrown)?;
    let mut masses = Vec::new();
    for head in 0..fixture::HEADS {
        for row in 0..grid.query_blocks() {
            masses.extend((0..grid.key_blocks()).map(|block| mass.mean(head, row, block)));
        }
    }
    Ok(object(&[
        ("output", Float64Array::from(&exact.output[..]).into()),
        ("mass", Float64Array::from(&masses[..]).into()),
    ]))
}

/// Takes the oracle's output, to compare runs of its layer and length with.
#[wasm_bindgen]
pub fn compare_with(choice: &Choice, output: Vec<f64>) {
    let of = (choice.0.layer, choice.0.tokens);
    STATE.with_borrow_mut(|state| state.exact = Some((of, output)));
}

/// Runs attention over the blocks that a rule visits: how long it takes, and, where the oracle's
/// output is known, what it deviates.
#[wasm_bindgen]
pub async fn run(choice: Choice, rounds: usize, progress: Function) -> JsResult<JsValue> {
    let (settings, context) = (choice.0, context()?);
    let job = with_layer(settings.layer, |explorer| explorer.uploaded(&context, &settings))?;
    let ran = job.run(rounds, |now| {
        let _ = progress.call3(&JsValue::NULL, &now.waiting_for.into(), &now.done.into(), &now.total.into());
    });
    let ran = ran.await.map_err(thrown)?;
    let of = (settings.layer, settings.tokens);
    let errors = STATE.with_borrow(|state| {
        let exact = state.exact.as_ref().filter(|(known, _)| *known == of);
        exact.map(|(_, exact)| explore::errors(&ran.output, exact))
    });
    let milliseconds = |time: std::time::Duration| JsValue::from(1e3 * time.as_secs_f64());
    let (rows, heads) = match errors {
        Some((rows, heads)) => (Float32Array::from(&rows[..]).into(), Float64Array::from(&heads[..]).into()),
        None => (JsValue::NULL, JsValue::NULL),
    };
    Ok(object(&[
        ("wall", milliseconds(ran.timings.median_wall())),
        ("gpu", ran.timings.median_gpu().map_or(JsValue::NULL, milliseconds)),
        ("kernel", ran.kernel.into()),
        ("rows", rows),
        ("heads", heads),
    ]))
}

/// The names of the caches.
#[wasm_bindgen]
pub fn caches() -> JsResult<Array> {
    let presets = staircase::presets().map_err(thrown)?;
    Ok(presets.into_iter().map(|(name, _)| JsValue::from(name)).collect())
}

/// What a cache of so many tokens holds, as JSON.
#[wasm_bindgen]
pub fn standing(cache: usize, tokens: usize) -> JsResult<String> {
    staircase::standing(cache, tokens).map(|found| found.to_string()).map_err(thrown)
}

/// What a cache of so many tokens loses by age, as JSON.
#[wasm_bindgen]
pub fn cache_loss(layer: usize, cache: usize, tokens: usize) -> JsResult<String> {
    let found = with_layer(layer, |explorer| staircase::loss(explorer.layer(layer), cache, tokens))?;
    Ok(found.to_string())
}

/// Curves of biases, as JSON.
#[wasm_bindgen]
pub fn curves(context: usize, heads: usize, length: f64, cap: u32) -> JsResult<String> {
    let wanted = positions::Wanted { context, heads, length, cap: cap.into() };
    positions::curves(&wanted).map(|found| found.to_string()).map_err(thrown)
}
