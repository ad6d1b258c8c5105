//! Programs as WGSL text: a header of `const` lines, then the kernel's own file with all that it
//! imports. Sizes are written once, in Rust.

use std::fmt::Write;

use super::program::Program;
use super::template::{self, Fault, PIECES, Value, Values};

/// The line of a text that computes in f16.
const ENABLE_F16: &str = "enable f16;\n";
/// The line of a text that uses cooperative matrices.
const ENABLE_MATRICES: &str = "enable wgpu_cooperative_matrix;\n";

/// What Rust knows of a kernel: constants of its text, and what directives name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    constants: String,
    values: Values,
}

impl Settings {
    /// Constants of the text that directives may name, too.
    pub(crate) fn of(sizes: &[(&'static str, usize)]) -> Self {
        let mut settings = Self::default();
        settings.sizes(sizes);
        settings
    }

    /// More of them.
    pub(crate) fn sizes(&mut self, sizes: &[(&'static str, usize)]) {
        for &(name, size) in sizes {
            self.constant(name, size as u32);
            self.values.insert(name, Value::Number(size));
        }
    }

    /// Those of which a kernel may have none: then they are 0 for directives, and no constants.
    pub(crate) fn optional_sizes(&mut self, sizes: &[(&'static str, usize)]) {
        for &(name, size) in sizes {
            match size {
                0 => drop(self.values.entry(name).or_insert(Value::Number(0))),
                _ => self.sizes(&[(name, size)]),
            }
        }
    }

    /// A constant of the text alone, as a flag is.
    pub(crate) fn constant(&mut self, name: &str, value: u32) {
        // Writing to a String can't fail.
        let _ = writeln!(self.constants, "const {name}: u32 = {value}u;");
    }

    /// The same of a number that may be negative.
    pub(crate) fn integer(&mut self, name: &str, value: i32) {
        let _ = writeln!(self.constants, "const {name}: i32 = {value};");
    }

    /// A constant of the text alone.
    pub(crate) fn real(&mut self, name: &str, value: f32) {
        let _ = writeln!(self.constants, "const {name}: f32 = {value:?};");
    }

    /// Conditions, which `#if` and `#unless` ask for.
    pub(crate) fn conditions(&mut self, conditions: &[(&'static str, bool)]) {
        let numbers = conditions.iter().map(|&(name, on)| (name, Value::Number(on.into())));
        self.values.extend(numbers);
    }

    /// A part of the names of pieces.
    pub(crate) fn word(&mut self, name: &'static str, word: &'static str) {
        self.values.insert(name, Value::Word(word));
    }

    /// A list of numbers, which `#for` goes through.
    pub(crate) fn list(&mut self, name: &'static str, numbers: Vec<usize>) {
        self.values.insert(name, Value::List(numbers));
    }
}

/// The text of the kernel whose file is `folder/entry_point.wgsl`. Where that isn't right, the text
/// is an error that says why, and that no compiler takes for WGSL.
pub(crate) fn kernel(label: &str, folder: &str, entry_point: &'static str, settings: &Settings) -> String {
    let mut values = settings.values.clone();
    values.insert("ENTRY_POINT", Value::Word(entry_point));
    match template::assemble(PIECES, &format!("{folder}/{entry_point}"), &values) {
        Ok(text) => {
            let template::Assembled { enables, body } = text;
            format!("{enables}// {label}\n{}{}\n{body}", numbers(), settings.constants)
        }
        Err(Fault(fault)) => format!("error: shaders/{fault}\n"),
    }
}

/// The numbers that every kernel may need.
fn numbers() -> String {
    let mut settings = Settings::default();
    let bits = [
        ("INFINITY_BITS", f32::INFINITY),
        ("NEGATIVE_INFINITY_BITS", f32::NEG_INFINITY),
        ("NAN_BITS", f32::from_bits(0x7fc0_0000)),
    ];
    for (name, value) in bits {
        settings.constant(name, value.to_bits());
    }
    settings.constants.push_str(
        "// The start of a running maximum: finite, so that differences with it are never NaN, and\n\
         // below every score.\n\
         const LOWEST: f32 = -0x1.fffffep+127;\n",
    );
    let ln_2 = std::f32::consts::LN_2;
    for (name, value) in [("LN_2", ln_2), ("LN_4", 2.0 * ln_2), ("EULER_GAMMA", 0.577_215_7)] {
        settings.real(name, value);
    }
    settings.constants
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
