//! How a file says that rotary frequencies are scaled.

use anyhow::{Result, ensure};
use prflash::Rope;
use prflash::position::Scaling;

use crate::gguf::ModelFile;

/// Frequencies divided pair by pair: how files of the llama architecture write Llama 3's scaling.
const FACTORS: &str = "rope_freqs.weight";

/// What the Llama 3 models have in common (`rope_scaling` in their configurations: Llama 3.1 to
/// 3.3).
const LLAMA3_LOW: f64 = 1.0;
const LLAMA3_HIGH: f64 = 4.0;
const LLAMA3_CONTEXT: usize = 8192;

/// How far the factors of a file, computed in f32, may be from Llama 3's.
const FACTOR_ERROR: f64 = 3e-5;

/// The scaling that the keys `ARCHITECTURE.rope.*` declare for a model of this context.
///
/// As llama.cpp reads them (`load_hparams` in llama-model.cpp): a factor without a type is linear,
/// the type "none" goes before a factor. YaRN's temperature is `(0.1·ln s + 1) · attn_factor`, as
/// llama-context.cpp has it where nothing else is set.
pub(super) fn declared(file: &ModelFile, architecture: &str, context: usize) -> Result<Scaling> {
    let key = |name: &str| format!("{architecture}.rope.{name}");
    let float = |name: &str| file.optional(&key(name), ModelFile::float);
    // Read whatever the type is: without YaRN they change nothing.
    let original_len = file.optional(&key("scaling.original_context_length"), ModelFile::number)?;
    let beta_fast = float("scaling.yarn_beta_fast")?.unwrap_or(32.0);
    let beta_slow = float("scaling.yarn_beta_slow")?.unwrap_or(1.0);
    // The older name of a linear factor.
    let factor = float("scaling.factor")?.or(float("scale_linear")?);
    let attention_factor = float("scaling.attn_factor")?.unwrap_or(1.0);
    let kind = file.optional(&key("scaling.type"), ModelFile::text)?;
    let scaling = match (kind, factor) {
        (Some("none"), _) | (None | Some("linear"), None) => Scaling::None,
        (None | Some("linear"), Some(factor)) => Scaling::Linear { factor },
        (Some("yarn"), factor) => {
            let factor = factor.unwrap_or(1.0);
            Scaling::Yarn {
                factor,
                original_len: original_len.unwrap_or(context),
                beta_fast,
                beta_slow,
                temperature: Some((0.1 * factor.ln() + 1.0) * attention_factor),
                rounded: true,
            }
        }
        _ => return Err(file.refusal(&key("scaling.type"), "expected none, linear or yarn")),
    };
    let yarn = matches!(scaling, Scaling::Yarn { .. });
    if !yarn && attention_factor != 1.0 {
        return Err(file.refusal(&key("scaling.attn_factor"), "expected 1 unless the scaling is YaRN"));
    }
    // Below 0 it is "not set" in llama.cpp.
    let mixed = if yarn { 1.0 } else { 0.0 };
    if float("scaling.yarn_ext_factor")?.is_some_and(|factor| factor >= 0.0 && factor != mixed) {
        let why = format!("expected {mixed}: the library has no other mixture of frequencies");
        return Err(file.refusal(&key("scaling.yarn_ext_factor"), &why));
    }
    for (name, only) in [("scaling.yarn_attn_factor", 1.0), ("scaling.yarn_log_multiplier", 0.0)] {
        if float(name)?.is_some_and(|number| number != only) {
            return Err(file.refusal(&key(name), &format!("expected {only}, which changes nothing")));
        }
    }
    Ok(scaling)
}

/// The scaling behind a tensor of factors, for a rotation without one. `None` where there is no
/// such tensor.
///
/// # Errors
/// Names the tensor if its factors aren't 1 and aren't Llama 3's.
pub(super) fn from_factors(file: &ModelFile, rope: &Rope) -> Result<Option<Scaling>> {
    if !file.has(FACTORS) {
        return Ok(None);
    }
    let factors = file.vector(FACTORS, rope.frequencies().len())?.to_vec1::<f32>()?;
    if factors.iter().all(|&factor| factor == 1.0) {
        return Ok(Some(Scaling::None));
    }
    let factor = factors.iter().copied().fold(1.0, f32::max).into();
    let scaling = Scaling::Llama3 {
        factor,
        low_freq_factor: LLAMA3_LOW,
        high_freq_factor: LLAMA3_HIGH,
        original_len: LLAMA3_CONTEXT,
    };
    let path = file.path().display();
    let unknown = || {
        format!(
            "model {path}: tensor {FACTORS}: the library divides frequencies as Llama 3 does (slowed \
             {factor} times, {LLAMA3_LOW} to {LLAMA3_HIGH} turns in {LLAMA3_CONTEXT} tokens) or not at \
             all, and these factors are others"
        )
    };
    let Ok(scaled) = rope.clone().with_scaling(scaling) else { anyhow::bail!(unknown()) };
    let plain = rope.frequencies().iter().zip(&factors);
    let is_close = |((plain, &factor), scaled): ((&f64, &f32), &f64)| {
        (plain / f64::from(factor) / scaled - 1.0).abs() <= FACTOR_ERROR
    };
    ensure!(plain.zip(scaled.frequencies()).all(is_close), unknown());
    Ok(Some(scaling))
}
