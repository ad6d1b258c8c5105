//! A cache whose precision steps down as tokens age: what it holds at a time, and what that loses.

use std::ops::Range;

use prflash::cache::{HostCache, Side, Staircase, StoredKeys};
use prflash::reference::{CacheLoss, cache_loss};
use prflash::{Attention, Result, Shape, Tables};
use serde_json::{Value, json};

use crate::fixture::{DIM, HEADS, Layer};

/// Queries that are compared: those of the newest tokens.
const QUERIES: usize = 8;

/// Tokens of an age group, as many as age together in most presets.
const AGE: usize = 128;

/// The caches of the page, by name.
///
/// # Errors
/// None.
pub fn presets() -> Result<Vec<(&'static str, Staircase)>> {
    Ok(vec![
        ("recommended", Staircase::recommended()),
        ("recommended, rotated codes", Staircase::recommended_rotated()),
        ("the paper's", Staircase::paper()),
        ("KIVI, 4 bits", Staircase::kivi(4)?),
        ("KIVI, 2 bits", Staircase::kivi(2)?),
        ("sinks and a window of 256", Staircase::streaming(256)?),
        ("plain f16", Staircase::plain()),
    ])
}

fn shape(tokens: usize) -> Result<Shape> {
    Shape::new(HEADS, 1, tokens, DIM)
}

/// What a cache of so many tokens holds: stretches of tokens that are stored alike, oldest first,
/// and the bytes of its parts.
///
/// # Errors
/// None for lengths that the page has.
pub fn standing(preset: usize, tokens: usize) -> Result<Value> {
    let staircase = preset_of(preset)?;
    let standing = staircase.standing(tokens);
    let memory = standing.memory(&shape(tokens)?);
    let stretches = standing.stretches().into_iter();
    let stretches: Vec<Value> =
        stretches.map(|(tokens, keys, values)| json!([tokens.start, tokens.end, keys, values])).collect();
    let rungs = |side: Side, bytes: &[u64]| -> Vec<Value> {
        let rungs = staircase.ladder(side).rungs().iter().zip(bytes);
        rungs.map(|(rung, bytes)| json!([rung.bits, bytes])).collect()
    };
    Ok(json!({
        "tokens": tokens,
        "stretches": stretches,
        "keys": rungs(Side::Keys, &memory.keys),
        "values": rungs(Side::Values, &memory.values),
        "residual": memory.residual,
        "sinks": memory.sinks,
        "total": memory.total(),
        "f16": 2 * 2 * DIM * tokens,
        "segment": staircase.segment(),
    }))
}

/// What attention of the newest tokens' queries loses, by the age of the tokens that it reads.
///
/// # Errors
/// None for inputs that are there.
pub fn loss(layer: &Layer, preset: usize, tokens: usize) -> Result<Value> {
    let tokens = tokens.clamp(1, layer.k.len() / DIM);
    let loss = measure(layer, preset_of(preset)?, tokens)?;
    let ages = loss.ages.iter().map(|age| {
        json!({
            "from": tokens - age.tokens.end,
            "to": tokens - age.tokens.start,
            "output_error": age.output_error,
            "score_error": age.score_error,
            "mass": age.mass,
        })
    });
    Ok(json!({ "tokens": tokens, "output_error": loss.output_error, "ages": ages.collect::<Vec<_>>() }))
}

fn measure(layer: &Layer, staircase: Staircase, tokens: usize) -> Result<CacheLoss> {
    let queries = QUERIES.min(tokens);
    let [q, k, v] = layer.first(tokens);
    let shape = shape(tokens)?.with_q_len(queries)?;
    let mut cache = HostCache::new(staircase, &shape, StoredKeys::AfterRotation)?;
    let sequence = cache.add();
    cache.append(sequence, &k, &v)?;
    let newest = q.chunks_exact(tokens * DIM).flat_map(|head| &head[(tokens - queries) * DIM..]);
    let newest: Vec<f32> = newest.copied().collect();
    let ages: Vec<Range<usize>> = (0..tokens.div_ceil(AGE))
        .map(|age| tokens.saturating_sub((age + 1) * AGE)..tokens - age * AGE)
        .collect();
    cache_loss(&Attention::causal(), &shape, &newest, (&k, &v), &cache, sequence, &Tables::new(), &ages)
}

/// The one of that number; past the last, the last.
fn preset_of(preset: usize) -> Result<Staircase> {
    let mut presets = presets()?;
    let at = preset.min(presets.len() - 1);
    Ok(presets.swap_remove(at).1)
}
