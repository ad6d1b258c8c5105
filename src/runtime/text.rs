//! Programs as WGSL text: a rendered header of `const` lines, then shared pieces, then the kernel's
//! own file. Sizes are written once, in Rust.

use std::fmt::Write;

use super::program::Program;
use crate::layout::DType;

/// What a text that computes in f16 begins with.
pub(crate) const ENABLE_F16: &str = "enable f16;\n";
/// What a text that uses cooperative matrices enables.
pub(crate) const ENABLE_MATRICES: &str = "enable wgpu_cooperative_matrix;\n";

/// What every kernel begins with: where a workgroup stands in the line of them.
pub(crate) const LINE_PIECE: &str = include_str!("../../shaders/shared/line.wgsl");

/// The text of a kernel without written-out loops: constants, the line of workgroups, then pieces.
pub(crate) fn plain(label: &str, values: &[(&str, u32)], pieces: &[&str]) -> String {
    let mut wgsl = header(label);
    constants(&mut wgsl, values);
    for piece in [LINE_PIECE].iter().chain(pieces).filter(|piece| !piece.is_empty()) {
        wgsl.push('\n');
        wgsl.push_str(piece);
    }
    wgsl
}

/// The label, and the numbers that every kernel may need.
pub(crate) fn header(label: &str) -> String {
    let mut wgsl = format!("// {label}\n");
    let bits = [
        ("INFINITY_BITS", f32::INFINITY),
        ("NEGATIVE_INFINITY_BITS", f32::NEG_INFINITY),
        ("NAN_BITS", f32::from_bits(0x7fc0_0000)),
    ];
    constants(&mut wgsl, &bits.map(|(name, value)| (name, value.to_bits())));
    wgsl.push_str("// The start of a running maximum: finite, so that differences with it are never NaN, and below every score.\n");
    wgsl.push_str("const LOWEST: f32 = -0x1.fffffep+127;\n");
    let ln_2 = std::f32::consts::LN_2;
    for (name, value) in [("LN_2", ln_2), ("LN_4", 2.0 * ln_2), ("EULER_GAMMA", 0.577_215_7)] {
        let _ = writeln!(wgsl, "const {name}: f32 = {value:?};");
    }
    wgsl
}

pub(crate) fn constants(wgsl: &mut String, values: &[(&str, u32)]) {
    for (name, value) in values {
        // Writing to a String can't fail.
        let _ = writeln!(wgsl, "const {name}: u32 = {value}u;");
    }
}

pub(crate) fn load_piece(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => include_str!("../../shaders/shared/load_f32.wgsl"),
        DType::F16 => include_str!("../../shaders/shared/load_f16.wgsl"),
        DType::Bf16 => include_str!("../../shaders/shared/load_bf16.wgsl"),
    }
}

pub(crate) fn store_piece(dtype: DType) -> &'static str {
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
    /// The WGSL. It needs no WebGPU feature beyond the core but what follows.
    pub wgsl: String,
    /// Whether it needs subgroups, and in browsers' compilers `enable subgroups;` before it.
    pub subgroups: bool,
    /// Whether it needs f16 arithmetic; it says `enable f16;` itself.
    pub f16: bool,
    /// Whether it needs cooperative matrices, wgpu's own extension, which it enables itself:
    /// browsers' compilers don't know it.
    pub cooperative: bool,
}

impl ShaderSource {
    /// The text of a program, and what it needs of a device.
    pub(crate) fn of(program: &dyn Program) -> Self {
        let (name, entry_point, wgsl) = (program.label(), program.entry_point(), program.source());
        let cooperative = wgsl.contains(ENABLE_MATRICES);
        let subgroups = cooperative || wgsl.contains("quadSwapX") || wgsl.contains("subgroupBroadcastFirst");
        let f16 = wgsl.starts_with(ENABLE_F16);
        ShaderSource { name, entry_point, wgsl, subgroups, f16, cooperative }
    }
}
