//! The cases of ONNX's `Attention` (opsets 23 to 25) and `RotaryEmbedding` (opset 23) operators,
//! computed by prflash and compared with what ONNX's reference says of them.
//!
//! `scripts/onnx-cases` takes them from the package `onnx` and runs this. A case passes where every
//! output is within the case's own tolerance.

mod attention;
mod numbers;
mod problem;
mod rotary;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use prflash::ContextOptions;
use serde_json::{Value, json};
use testkit::backend::{Backend, Computing};
use testkit::example::{self, Common};

/// Runs the cases of ONNX's operators that scripts/onnx-cases has written to a folder.
#[derive(Parser)]
struct Arguments {
    /// The folder with a JSON file for each case of an operator.
    #[arg(default_value = "target/onnx-cases/Attention")]
    cases: PathBuf,
    #[command(flatten)]
    computing: Computing,
    #[command(flatten)]
    common: Common,
}

fn main() -> Result<()> {
    let (arguments, _) = example::parse::<Arguments>();
    let backend = arguments.computing.open(ContextOptions::new())?;
    let mut files: Vec<PathBuf> = std::fs::read_dir(&arguments.cases)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .with_context(|| format!("{}: run scripts/onnx-cases first", arguments.cases.display()))?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    ensure!(!files.is_empty(), "{}: no cases; run scripts/onnx-cases first", arguments.cases.display());
    if arguments.common.quick {
        files.truncate(8);
    }
    let (mut passed, mut largest, mut failures) = (0, 0.0_f64, Vec::new());
    for file in &files {
        let value = read(file).with_context(|| format!("reading {}", file.display()))?;
        match run(&value, &backend) {
            Ok(error) => {
                passed += 1;
                largest = largest.max(error);
            }
            Err(error) => failures.push(format!("{}: {error:#}", value["name"])),
        }
    }
    let (count, failed) = (files.len(), failures.len());
    if arguments.common.json {
        let fields =
            json!({ "cases": count, "passed": passed, "largest_error_f32": largest, "failures": failures });
        println!("{}", backend.object("onnx_cases", &[], fields)?);
    } else {
        println!("{backend}\n");
        failures.iter().for_each(|failure| println!("FAILED {failure}"));
        println!("{passed} of {count} cases passed; of f32 the largest error is {largest:.1e}");
    }
    ensure!(failed == 0, "{failed} of {count} cases failed");
    Ok(())
}

fn read(file: &Path) -> Result<Value> {
    Ok(serde_json::from_str(&std::fs::read_to_string(file)?)?)
}

/// Computes a case and compares its outputs; the largest error, of f32.
fn run(case: &Value, backend: &Backend) -> Result<f64> {
    match case["operator"].as_str() {
        Some("Attention") => attention::Case::read(case)?.run(backend),
        Some("RotaryEmbedding") => rotary::Case::read(case)?.run(backend),
        other => bail!("an operator {other:?}"),
    }
}
