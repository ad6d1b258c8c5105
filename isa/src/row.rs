//! One kernel on one family: what the table has a row for.

use std::collections::BTreeMap;

use anyhow::Result;
use prflash::shaders::Candidate;
use serde::Serialize;

use crate::assembly::{Counts, Program, Steps};
use crate::null_device::NullDevice;
use crate::spirv::{self, Checks};

/// Keys of a block, of which a key loop's overhead is counted once.
const BLOCK_KEYS: usize = 64;

/// What was measured of a kernel.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    /// The entry point.
    pub kernel: String,
    /// The kernel with all that is rendered into its text.
    pub variant: String,
    /// The chip family, as RADV names it.
    pub family: String,
    /// 0 where the kernel has none.
    pub head_dim: usize,
    /// Whether a plan chooses it on a GPU.
    pub chosen: bool,
    /// Lanes of a wave, as the driver chose.
    pub wave: u32,
    /// Vector registers.
    pub vgprs: u64,
    /// Scalar registers.
    pub sgprs: u64,
    /// Vector registers kept in memory.
    pub spills: u64,
    /// Scalar registers kept in vector registers.
    pub scalar_spills: u64,
    /// Waves that a SIMD holds at once.
    pub waves: u64,
    /// Bytes of workgroup memory.
    pub lds: u64,
    /// Whether the counts are of a loop over keys; else of the whole program.
    pub key_loop: bool,
    /// Multiply-adds among all instructions, dual issue counted as two.
    pub fma_share: f64,
    /// As `fma_share`, of the multiply-adds that attention takes: without those that convert or
    /// rescale.
    pub useful_share: f64,
    /// Multiply-adds among the vector unit's time: the share of peak where all else overlaps.
    pub vector_share: f64,
    /// Matrix instructions among all.
    pub wmma_share: f64,
    /// Instructions per key of a block.
    pub per_key: f64,
    /// Bytes that a wave loads from memory (caches included) per floating-point operation of its
    /// multiply-adds.
    pub bytes_per_flop: f64,
    /// Of a key block's instructions, or of the whole program's.
    pub counts: Counts,
    /// What was counted in one step over keys.
    pub step: Option<Counts>,
    /// All numbers of the driver's.
    pub statistics: BTreeMap<String, u64>,
}

/// Compiles a kernel and counts; returns the assembly too.
///
/// # Errors
/// What naga or the driver refuses.
pub fn measure(
    device: &NullDevice,
    family: &str,
    candidate: &Candidate,
    checks: Checks,
    wave: Option<u32>,
) -> Result<(Row, String)> {
    let source = &candidate.source;
    let module = spirv::compile(source, checks)?;
    let compiled = device.compile(&module, source.entry_point, wave)?;
    let program = Program::parse(&compiled.assembly);
    let quads = candidate.keys * candidate.head_dim / 4;
    let steps = Steps {
        keys: candidate.keys.max(1),
        block: BLOCK_KEYS,
        turns: candidate.turns,
        staged_quads: if candidate.staged { quads.div_ceil(module.invocations as usize) } else { 0 },
    };
    let found = if candidate.keys > 0 { program.key_loop(&steps) } else { None };
    let counts = found.map_or_else(|| program.whole(), |found| found.block);
    let number = |name: &str| compiled.statistics.get(name).copied().unwrap_or(0);
    let lanes = f64::from(compiled.wave);
    let flops = 2.0 * counts.multiply_adds * lanes;
    let loaded = counts.scalar_bytes + counts.vector_bytes * lanes;
    let row = Row {
        kernel: source.entry_point.to_owned(),
        variant: source.name.clone(),
        family: family.to_owned(),
        head_dim: candidate.head_dim,
        chosen: candidate.chosen,
        wave: compiled.wave,
        vgprs: number("VGPRs"),
        sgprs: number("SGPRs"),
        spills: number("Spilled VGPRs"),
        scalar_spills: number("Spilled SGPRs"),
        waves: number("Subgroups per SIMD"),
        lds: number("LDS size"),
        key_loop: found.is_some(),
        fma_share: counts.fma_share(),
        useful_share: match found {
            Some(_) => (candidate.multiply_adds * BLOCK_KEYS) as f64 / counts.instructions(),
            None => 0.0,
        },
        vector_share: counts.vector_share(),
        wmma_share: if counts.instructions() > 0.0 { counts.wmma / counts.instructions() } else { 0.0 },
        per_key: if found.is_some() { counts.instructions() / BLOCK_KEYS as f64 } else { 0.0 },
        bytes_per_flop: if flops > 0.0 { loaded / flops } else { 0.0 },
        counts,
        step: found.map(|found| found.step),
        statistics: compiled.statistics,
    };
    Ok((row, compiled.assembly))
}
