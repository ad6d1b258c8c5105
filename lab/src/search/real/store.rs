//! Scores in a file, none of which is computed twice.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::objective::{Objective, Outcome};
use super::values::Values;

const VERSION: u32 = 1;
/// The file that says what the scores are of.
const STATE: &str = "store.json";
/// A score a line.
const SCORES: &str = "scores.jsonl";

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    scope: String,
    seed: u64,
    values: Values,
    outcome: Outcome,
    device: String,
    revision: String,
}

type Key = (String, u64, String);

/// An objective with a folder in which its scores are kept: each is a line at the end of a file,
/// which is on the disk before anything else goes on. A last line that is torn is as if it had
/// never been written.
pub struct Kept<'o> {
    objective: &'o mut dyn Objective,
    path: PathBuf,
    file: File,
    known: HashMap<Key, Outcome>,
    /// The device by which the scores that are there were computed.
    device: Option<String>,
    revision: &'o str,
    counts: Counts,
}

/// How many scores were asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// How many scores were computed.
    pub computed: u64,
    /// How many scores were there already.
    pub found: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.computed += other.computed;
        self.found += other.found;
    }
}

impl<'o> Kept<'o> {
    /// Opens the scores of a folder, which is made if it isn't there.
    ///
    /// # Errors
    /// A folder with scores of another objective or other files, files that can't be read or
    /// written, a line before the last that is none.
    pub fn open(folder: &Path, objective: &'o mut dyn Objective, revision: &'o str) -> Result<Self> {
        check_state(&folder.join(STATE), objective)?;
        let path = folder.join(SCORES);
        let context = || format!("opening {}", path.display());
        let mut options = OpenOptions::new();
        let mut file = options.read(true).append(true).create(true).open(&path).with_context(context)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).with_context(context)?;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        if whole < bytes.len() {
            // What is behind the last end of a line was being written when the program ended.
            file.set_len(whole as u64).with_context(context)?;
            file.seek(SeekFrom::End(0)).with_context(context)?;
        }
        let (mut known, mut device) = (HashMap::new(), None);
        for (number, line) in (1u64..).zip(bytes[..whole].split_inclusive(|&byte| byte == b'\n')) {
            let line: Line =
                serde_json::from_slice(line).with_context(|| format!("{}, line {number}", path.display()))?;
            // Two programs may have computed the same at the same time: the first counts.
            known.entry(key(&line.scope, line.seed, &line.values)).or_insert(line.outcome);
            device = Some(line.device);
        }
        Ok(Self { objective, path, file, known, device, revision, counts: Counts::default() })
    }

    /// The objective whose scores are kept.
    pub fn objective(&self) -> &dyn Objective {
        self.objective
    }

    /// How many scores were asked for so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The score of values by a seed, from the file or else computed. `step` hears which part of
    /// that is done.
    ///
    /// # Errors
    /// The errors of [`Objective::score`], another device than that of the scores that are there, a
    /// file that can't be written.
    pub fn score(
        &mut self,
        values: &Values,
        seed: u64,
        step: &mut dyn FnMut(f64) -> Result<()>,
    ) -> Result<Outcome> {
        let scope = self.objective.scope().to_owned();
        let key = key(&scope, seed, values);
        if let Some(known) = self.known.get(&key) {
            self.counts.found += 1;
            return Ok(known.clone());
        }
        let device = self.objective.device(step)?;
        if let Some(there) = self.device.as_ref().filter(|there| **there != device) {
            let path = self.path.display();
            anyhow::bail!("{path}: its scores are of {there}, not of {device}; give another folder");
        }
        let outcome = self.objective.score(values, seed, step).with_context(|| format!("{values}"))?;
        let (values, revision) = (values.clone(), self.revision.to_owned());
        let line = Line { scope, seed, values, outcome: outcome.clone(), device: device.clone(), revision };
        let text = serde_json::to_string(&line)? + "\n";
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data());
        written.with_context(|| format!("writing {}", self.path.display()))?;
        self.known.insert(key, outcome.clone());
        self.device = Some(device);
        self.counts.computed += 1;
        Ok(outcome)
    }
}

fn key(scope: &str, seed: u64, values: &Values) -> Key {
    (scope.to_owned(), seed, values.to_string())
}

/// Compares with the state that is there, or writes this one, whole or not at all.
fn check_state(path: &Path, objective: &dyn Objective) -> Result<()> {
    let own = json!({ "version": VERSION, "objective": objective.name(), "of": objective.identity() });
    if !path.exists() {
        return testkit::files::write(path, serde_json::to_string_pretty(&own)? + "\n");
    }
    let context = || format!("reading {}", path.display());
    let text = std::fs::read_to_string(path).with_context(context)?;
    let there: Value = serde_json::from_str(&text).with_context(context)?;
    ensure!(
        there == own,
        "{}: the scores there are of {there}, not of {own}; give another folder",
        path.display()
    );
    Ok(())
}
