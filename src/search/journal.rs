//! A search whose trials are kept in files as they come.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::history::{Ask, Method, Search, Trial};
use super::space::{Scale, Space, Value};
use crate::error::{Error, Result, ensure};
use crate::files::write_whole;

const VERSION: u32 = 1;
/// What is searched, and how.
const STATE: &str = "search.json";
/// What was asked and told, a line each.
const TRIALS: &str = "trials.jsonl";

/// A [`Search`] that survives whatever ends the program: every trial and every score is a line at
/// the end of a file, which is on the disk before anything else goes on.
///
/// The folder has `search.json`, with a version, the seed, the method and the space, and
/// `trials.jsonl`. A last line that is torn is as if it had never been written. Taken up again, the
/// search goes on as without an interruption; trials that were asked for and never told are asked
/// for again, before any other.
///
/// ```no_run
/// use prflash::search::{Ask, Journal, Parameter, Space, Tpe};
/// let space = Space::new([Parameter::ordinal("window", [1, 2, 4, 8])?])?;
/// let mut journal = Journal::open("searches/window", space, Tpe::new(), 2026)?;
/// while let Ask::Trial(trial) = journal.ask()? {
///     let window = journal.search().space().value(&trial.point, "window");
///     let score = 1.0; // what training with this window comes to
///     journal.tell(trial.id, score)?;
/// }
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Debug)]
pub struct Journal<M> {
    search: Search<M>,
    path: PathBuf,
    file: File,
    /// Asked for before the interruption, without a score, the last one first.
    open: Vec<Trial>,
}

#[derive(Serialize, Deserialize, PartialEq)]
struct State {
    version: u32,
    seed: u64,
    method: String,
    space: Vec<Listed>,
}

#[derive(Serialize, Deserialize, PartialEq)]
struct Listed {
    name: String,
    scale: Scale,
    values: Vec<Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Asked(Trial),
    Told {
        id: u64,
        /// None of a trial that failed.
        score: Option<f64>,
    },
}

impl<M: Method> Journal<M> {
    /// Begins a search in a folder, which is made if it isn't there, or takes up the one that it
    /// has.
    ///
    /// # Errors
    /// - invalid argument (`space`, `method`, `seed`) if the folder has a search by another one
    /// - [`is_corrupt`](Error::is_corrupt) if a line before the last is none of such a file, named
    ///   with the reason; [`is_unknown_version`](Error::is_unknown_version)
    /// - [`is_io`](Error::is_io) if a file can't be read or written
    pub fn open(folder: impl AsRef<Path>, space: Space, method: M, seed: u64) -> Result<Self> {
        let folder = folder.as_ref();
        fs::create_dir_all(folder).map_err(|error| failed("making", folder, error))?;
        check_state(&folder.join(STATE), &State::new(&space, &method, seed))?;
        let path = folder.join(TRIALS);
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = opened.map_err(|error| failed("opening", &path, error))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|error| failed("reading", &path, error))?;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        // What is behind the last end of a line was being written when the program ended.
        file.set_len(whole as u64)
            .and_then(|()| file.seek(SeekFrom::Start(whole as u64)))
            .map_err(|error| failed("writing", &path, error))?;
        let trials = read_trials(&bytes[..whole])?;
        let open = trials.iter().rev().filter(|(_, score)| score.is_none()).map(|(trial, _)| trial.clone());
        let open = open.collect();
        let search = Search::new(space, method, seed).resumed(trials);
        let search = search.map_err(|error| Error::corrupt(format!("{TRIALS}: {error}")))?;
        Ok(Self { search, path, file, open })
    }

    /// The search that is kept.
    pub fn search(&self) -> &Search<M> {
        &self.search
    }

    /// [`Search::ask`], but first those trials that were asked for before an interruption.
    ///
    /// # Errors
    /// [`is_io`](Error::is_io) if the file can't be written.
    pub fn ask(&mut self) -> Result<Ask> {
        if let Some(trial) = self.open.pop() {
            return Ok(Ask::Trial(trial));
        }
        let ask = self.search.ask();
        if let Ask::Trial(trial) = &ask {
            self.append(&Line::Asked(trial.clone()))?;
        }
        Ok(ask)
    }

    /// [`Search::tell`]. An infinite score is that of a trial that failed.
    ///
    /// # Errors
    /// As [`Search::tell`]; [`is_io`](Error::is_io) if the file can't be written.
    pub fn tell(&mut self, id: u64, score: f64) -> Result<()> {
        let score = Some(score).filter(|score| score.is_finite());
        self.search.tell(id, score.unwrap_or(f64::NAN))?;
        self.open.retain(|trial| trial.id != id);
        self.append(&Line::Told { id, score })
    }

    fn append(&mut self, line: &Line) -> Result<()> {
        let text = serde_json::to_string(line).map(|text| text + "\n");
        let written = text.map_err(std::io::Error::from).and_then(|text| {
            self.file.write_all(text.as_bytes())?;
            self.file.sync_data()
        });
        written.map_err(|error| failed("writing", &self.path, error))
    }
}

impl State {
    fn new(space: &Space, method: &dyn Method, seed: u64) -> Self {
        let listed = space.parameters().iter().map(|parameter| Listed {
            name: parameter.name().into(),
            scale: parameter.scale(),
            values: parameter.values().into(),
        });
        Self { version: VERSION, seed, method: format!("{method:?}"), space: listed.collect() }
    }
}

/// Compares with the state that is there, or writes this one, whole or not at all.
fn check_state(path: &Path, state: &State) -> Result<()> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let text = serde_json::to_string_pretty(state).map_err(std::io::Error::from);
            let written = text.and_then(|text| write_whole(path, |writer| writer.write_all(text.as_bytes())));
            return written.map_err(|error| failed("writing", path, error));
        }
        Err(error) => return Err(failed("reading", path, error)),
    };
    let corrupt = |error| Error::corrupt(format!("{STATE}: {error}"));
    let value: serde_json::Value = serde_json::from_str(&text).map_err(corrupt)?;
    let version = &value["version"];
    if *version != VERSION {
        return Err(Error::unknown_version(format!("a search of version {version}, expected {VERSION}")));
    }
    let there: State = serde_json::from_value(value).map_err(corrupt)?;
    ensure!(there.space == state.space, "space", "the search in this folder is of another one");
    ensure!(
        there.seed == state.seed,
        "seed",
        "the search in this folder has {}, not {}",
        there.seed,
        state.seed
    );
    let (found, want) = (&there.method, &state.method);
    ensure!(found == want, "method", "the search in this folder is by {found}, not {want}");
    Ok(())
}

/// Trials with their scores, from whole lines.
fn read_trials(bytes: &[u8]) -> Result<Vec<(Trial, Option<f64>)>> {
    let mut trials: Vec<(Trial, Option<f64>)> = Vec::new();
    for (number, line) in (1u64..).zip(bytes.split_inclusive(|&byte| byte == b'\n')) {
        let corrupt = |reason: String| Error::corrupt(format!("{TRIALS}, line {number}: {reason}"));
        match serde_json::from_slice(line).map_err(|error| corrupt(error.to_string()))? {
            Line::Asked(trial) => trials.push((trial, None)),
            Line::Told { id, score } => {
                let trial = usize::try_from(id).ok().and_then(|id| trials.get_mut(id));
                let (_, place) =
                    trial.ok_or_else(|| corrupt(format!("trial {id} was not asked for before")))?;
                if place.is_some() {
                    return Err(corrupt(format!("the score of trial {id} was told before")));
                }
                *place = Some(score.unwrap_or(f64::NAN));
            }
        }
    }
    Ok(trials)
}

fn failed(doing: &str, path: &Path, error: std::io::Error) -> Error {
    Error::io(format!("{doing} {}", path.display()), error)
}

#[cfg(test)]
mod tests {
    use super::super::{CrossEntropy, Parameter, Random};
    use super::*;

    /// A folder of its own, gone in the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("prflash-journal-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }

        fn trials(&self) -> PathBuf {
            self.0.join(TRIALS)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn space() -> Space {
        Space::new([
            Parameter::ordinal("a", [0.1, 0.2, 0.4, 0.8]).unwrap(),
            Parameter::nominal("b", ["x", "y", "z"]).unwrap(),
            Parameter::ordinal("c", [1, 2, 3, 4, 5]).unwrap(),
        ])
        .unwrap()
    }

    fn method() -> CrossEntropy {
        CrossEntropy::paper(6, 0.34, 0.7).unwrap()
    }

    fn open(folder: &Folder) -> Journal<CrossEntropy> {
        Journal::open(&folder.0, space(), method(), 3).unwrap()
    }

    /// A score that not every decimal number of few digits is.
    fn score(trial: &Trial) -> f64 {
        if trial.id % 7 == 5 { f64::NAN } else { (f64::from(trial.point.indices()[0]) + 0.1).sqrt() / 3.0 }
    }

    fn step(journal: &mut Journal<CrossEntropy>) -> Trial {
        let Ask::Trial(trial) = journal.ask().unwrap() else { panic!("exhausted") };
        journal.tell(trial.id, score(&trial)).unwrap();
        trial
    }

    /// Wherever the file is cut, what follows is what it would have been.
    #[test]
    fn interruptions_leave_no_trace() {
        let folder = Folder::new("cut");
        let mut journal = open(&folder);
        let whole: Vec<Trial> = (0..20).map(|_| step(&mut journal)).collect();
        let bytes = fs::read(folder.trials()).unwrap();
        let best = journal.search().best().map(|(trial, score)| (trial.id, score));
        drop(journal);
        for cut in (0..bytes.len()).step_by(37).chain([bytes.len() - 1, bytes.len()]) {
            fs::write(folder.trials(), &bytes[..cut]).unwrap();
            let mut journal = open(&folder);
            let told = |trial: &&Trial| journal.search().history().score(trial.id).is_some();
            let told = journal.search().history().trials().iter().filter(told).count();
            let again: Vec<Trial> = (told..20).map(|_| step(&mut journal)).collect();
            assert_eq!(again, whole[told..], "cut at {cut}");
            assert_eq!(journal.search().best().map(|(trial, score)| (trial.id, score)), best);
            assert_eq!(fs::read(folder.trials()).unwrap(), bytes, "cut at {cut}");
        }
    }

    #[test]
    fn open_trials_are_asked_for_again_in_their_order() {
        let folder = Folder::new("open");
        let mut journal = open(&folder);
        let asked: Vec<Ask> = (0..5).map(|_| journal.ask().unwrap()).collect();
        journal.tell(1, 0.5).unwrap();
        journal.tell(3, f64::INFINITY).unwrap();
        drop(journal);
        let mut journal = open(&folder);
        assert!(journal.search().history().score(3).unwrap().is_nan());
        // What is told without being asked again is not open any more.
        journal.tell(2, 0.25).unwrap();
        assert_eq!([0, 4].map(|at: usize| asked[at].clone()), [(); 2].map(|()| journal.ask().unwrap()));
        assert!(matches!(journal.ask().unwrap(), Ask::Trial(trial) if trial.id == 5));
        assert_eq!(journal.ask().unwrap(), Ask::Wait);
    }

    #[test]
    fn other_searches_and_changed_files_are_refused() {
        let folder = Folder::new("other");
        let mut journal = open(&folder);
        (0..3).for_each(|_| _ = step(&mut journal));
        let other = Space::new([Parameter::ordinal("a", [1, 2]).unwrap()]).unwrap();
        let name = |error: Error| error.argument().unwrap();
        assert_eq!(name(Journal::open(&folder.0, other, method(), 3).unwrap_err()), "space");
        assert_eq!(name(Journal::open(&folder.0, space(), method(), 4).unwrap_err()), "seed");
        assert_eq!(name(Journal::open(&folder.0, space(), Random, 3).unwrap_err()), "method");
        assert_eq!(name(journal.tell(9, 1.0).unwrap_err()), "id");
        let text = fs::read_to_string(folder.trials()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (line, reason) in [
            ("{\"asked\":", "trials.jsonl, line 2: EOF while parsing"),
            ("{\"told\":{\"id\":7,\"score\":1.0}}", "trials.jsonl, line 2: trial 7 was not asked for before"),
            (lines[0], "trials.jsonl: trials: expected trial 1, got 0"),
        ] {
            fs::write(folder.trials(), [lines[0], line, lines[2], ""].join("\n")).unwrap();
            let error = Journal::open(&folder.0, space(), method(), 3).unwrap_err();
            assert!(error.is_corrupt() && error.to_string().contains(reason), "{error}");
        }
        let state = fs::read_to_string(folder.0.join(STATE)).unwrap();
        fs::write(folder.0.join(STATE), state.replace("\"version\": 1", "\"version\": 2")).unwrap();
        let error = Journal::open(&folder.0, space(), method(), 3).unwrap_err();
        assert!(error.is_unknown_version(), "{error}");
        fs::write(folder.0.join(STATE), "{").unwrap();
        assert!(Journal::open(&folder.0, space(), method(), 3).unwrap_err().is_corrupt());
    }
}
