//! The kernels as WGSL text, one per variant: what the device is given, to read, to validate, to compile elsewhere.
//!
//! Sizes are written once, in Rust: a variant is a rendered header of `const` lines, then shared pieces, then the kernel's own file.

use std::fmt::Write;

use super::params;
use crate::layout::DType;

/// Rows of a tile, and invocations of a workgroup, of the naive kernel.
pub(crate) const NAIVE_ROWS: usize = 64;

/// The header, storage types and sizes for which a kernel is rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Variant {
    pub(crate) storage: DType,
    pub(crate) output: DType,
    pub(crate) head_dim: usize,
    pub(crate) value_dim: usize,
}

impl Variant {
    /// The kernel's name, which is also its file's and its entry point's.
    pub(crate) fn entry_point(&self) -> &'static str {
        "attention_naive"
    }

    /// A name that is unique per variant and fit for a file.
    pub(crate) fn label(&self) -> String {
        let Self { storage, output, head_dim, value_dim } = self;
        format!("{}_{storage}_{output}_d{head_dim}_v{value_dim}", self.entry_point())
    }

    /// The complete WGSL.
    pub(crate) fn source(&self) -> String {
        let mut wgsl = String::new();
        // Writing to a String can't fail.
        let _ = write!(
            wgsl,
            "// {label}\n\
             const HEAD_QUADS: u32 = {head_quads}u;\n\
             const VALUE_QUADS: u32 = {value_quads}u;\n\
             const ROWS: u32 = {rows}u;\n\
             const FLAG_CAUSAL: u32 = {causal}u;\n\
             const FLAG_WINDOW: u32 = {window}u;\n\
             const FLAG_SOFT_CAP: u32 = {soft_cap}u;\n\
             const FLAG_LSE: u32 = {lse}u;\n\
             const NO_LIST: u32 = {no_list}u;\n\
             const NEGATIVE_INFINITY_BITS: u32 = {negative_infinity}u;\n\
             // The start of a running maximum: finite, so that differences with it are never NaN.\n\
             const LOWEST: f32 = -3.0e38;\n",
            label = self.label(),
            head_quads = self.head_dim / 4,
            value_quads = self.value_dim / 4,
            rows = NAIVE_ROWS,
            causal = params::FLAG_CAUSAL,
            window = params::FLAG_WINDOW,
            soft_cap = params::FLAG_SOFT_CAP,
            lse = params::FLAG_LSE,
            no_list = params::NO_LIST,
            negative_infinity = f32::NEG_INFINITY.to_bits(),
        );
        for piece in [
            include_str!("../../shaders/shared/params.wgsl"),
            load_piece(self.storage),
            store_piece(self.output),
            include_str!("../../shaders/shared/visible.wgsl"),
            include_str!("../../shaders/attention_naive.wgsl"),
        ] {
            wgsl.push('\n');
            wgsl.push_str(piece);
        }
        wgsl
    }
}

fn load_piece(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => include_str!("../../shaders/shared/load_f32.wgsl"),
        DType::F16 => include_str!("../../shaders/shared/load_f16.wgsl"),
        DType::Bf16 => include_str!("../../shaders/shared/load_bf16.wgsl"),
    }
}

fn store_piece(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => include_str!("../../shaders/shared/store_f32.wgsl"),
        DType::F16 => include_str!("../../shaders/shared/store_f16.wgsl"),
        DType::Bf16 => include_str!("../../shaders/shared/store_bf16.wgsl"),
    }
}

/// One kernel variant as text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShaderSource {
    /// Unique, fit for a file name.
    pub name: String,
    /// The compute entry point.
    pub entry_point: &'static str,
    /// The WGSL. It needs no WebGPU feature beyond the core.
    pub wgsl: String,
}

/// A Rust struct that a shader reads: name, (field, byte offset) pairs, size in bytes.
pub type HostLayout = (&'static str, Vec<(&'static str, u32)>, u32);

/// The layouts, on the Rust side, of every struct that the shaders share with it.
pub fn host_layouts() -> Vec<HostLayout> {
    params::layouts()
}

/// Every kernel variant at the head dimensions that models use (any multiple of 4 up to 256 is rendered on demand).
pub fn sources() -> Vec<ShaderSource> {
    const DIMS: [(usize, usize); 12] = [
        (4, 4),
        (32, 32),
        (40, 40),
        (64, 64),
        (72, 72),
        (80, 80),
        (96, 96),
        (112, 112),
        (128, 128),
        (192, 128),
        (192, 192),
        (256, 256),
    ];
    let mut sources = Vec::new();
    for storage in DType::ALL {
        for output in DType::ALL {
            for (head_dim, value_dim) in DIMS {
                let variant = Variant { storage, output, head_dim, value_dim };
                sources.push(ShaderSource {
                    name: variant.label(),
                    entry_point: variant.entry_point(),
                    wgsl: variant.source(),
                });
            }
        }
    }
    sources
}
