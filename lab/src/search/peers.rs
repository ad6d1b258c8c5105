//! What another program found, as `scripts/search-peers` writes it, and the file that it searches.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use prflash::search::Scale;
use serde_json::json;
use testkit::statistics::median;

use super::rows::{MARKS, Replayed};
use super::surrogate::Surrogate;

/// Writes the parameters with their values and the scores of all points, the last parameter the
/// fastest, as one JSON object.
///
/// # Errors
/// The file can't be written.
pub fn export(path: &Path, name: &str, surrogate: &Surrogate) -> Result<()> {
    let parameters = surrogate.space().parameters().iter().map(|parameter| {
        let nominal = parameter.scale() == Scale::Nominal;
        json!({ "name": parameter.name(), "nominal": nominal, "values": parameter.values() })
    });
    let object = json!({
        "table": name,
        "parameters": parameters.collect::<Vec<_>>(),
        "scores": surrogate.scores(),
    });
    testkit::files::write(path, serde_json::to_string(&object)?)
}

#[derive(serde::Deserialize)]
struct Line {
    method: String,
    program: String,
    seed: u64,
    trials: usize,
    best: f64,
    median: f64,
    largest: f64,
}

/// The searches of one table that are in a file, by their method; none if it isn't there.
///
/// # Errors
/// A file that can't be read, a line that is none, a search without some of the marks, or one of
/// another surrogate, whose largest or median score differs.
pub fn read(path: &Path, surrogate: &Surrogate) -> Result<Vec<Replayed>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let context = || format!("reading {}", path.display());
    let most = surrogate.scores().iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let middle = median(surrogate.scores());
    let mut searches: BTreeMap<(String, String, u64), BTreeMap<usize, f64>> = BTreeMap::new();
    for line in csv::Reader::from_path(path).with_context(context)?.deserialize() {
        let line: Line = line.with_context(context)?;
        let same = (line.largest - most).abs() < 1e-9 && (line.median - middle).abs() < 1e-9;
        ensure!(same, "{}: it is of another surrogate; run scripts/search-peers again", path.display());
        let search = searches.entry((line.method, line.program, line.seed)).or_default();
        search.insert(line.trials, (most - line.best) / (most - middle));
    }
    let mut all: Vec<Replayed> = Vec::new();
    for ((method, program, seed), regrets) in searches {
        let marks: Vec<usize> = regrets.keys().copied().collect();
        let (name, want) = (path.display(), MARKS);
        ensure!(marks == want, "{name}: {method}, seed {seed}: expected trials {want:?}, got {marks:?}");
        let regrets = regrets.into_values().collect();
        match all.last_mut().filter(|last| last.method == method && last.program == program) {
            Some(last) => last.regrets.push(regrets),
            None => all.push(Replayed { method, program, regrets: vec![regrets] }),
        }
    }
    Ok(all)
}
