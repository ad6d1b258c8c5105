//! What the examples have in common: options, progress, the JSON object and their folder.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, Parser};
use prflash::Context;
use serde_json::{Map, Value, json};

use crate::repository;

/// The options that every example has.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
    /// A small run, which tries everything in seconds.
    #[arg(long)]
    pub quick: bool,
    /// Where pictures and files go, by default target/NAME; target/NAME-other if options ask for
    /// another run than the usual one.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Options that leave what is measured as it is.
const HARMLESS: [&str; 5] = ["json", "out", "adapter", "repeats", "threads"];

/// Reads the command line. The other result is whether it asks for the usual run, whose pictures
/// the documentation shows.
pub fn parse<A: Parser>() -> (A, bool) {
    let command = A::command();
    let matches = command.clone().get_matches();
    let usual = is_usual(&command, &matches);
    (A::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()), usual)
}

fn is_usual(command: &Command, matches: &ArgMatches) -> bool {
    let asked = |name: &str| {
        matches.try_contains_id(name).is_ok() && matches.value_source(name) == Some(ValueSource::CommandLine)
    };
    let names = command.get_arguments().map(|argument| argument.get_id().as_str());
    !names.filter(|name| !HARMLESS.contains(name)).any(asked)
}

impl Common {
    /// The folder for the pictures and files of the example, made if missing.
    ///
    /// # Errors
    /// It can't be made.
    pub fn folder(&self, example: &str, usual: bool) -> Result<PathBuf> {
        let target = || {
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
        };
        let name = if usual { example.to_owned() } else { format!("{example}-other") };
        let folder = self.out.clone().unwrap_or_else(|| target().join(name));
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(folder)
    }
}

/// The JSON object of an example: its name, the device (nulls where it took none), its pictures,
/// and what it measured, `fields`.
///
/// # Errors
/// None in practice: nothing here is not JSON.
pub fn object(
    example: &str,
    context: Option<&Context>,
    pictures: &[PathBuf],
    fields: Value,
) -> Result<String> {
    let backend = json!(context.map(|context| format!("{:?}", context.capabilities().backend)));
    object_by(example, context, backend, pictures, fields)
}

pub(crate) fn object_by(
    example: &str,
    context: Option<&Context>,
    backend: Value,
    pictures: &[PathBuf],
    fields: Value,
) -> Result<String> {
    let device = context.map(Context::capabilities);
    let mut object = Map::new();
    let mut add = |key: &str, value: Value| object.insert(key.to_owned(), value);
    add("example", json!(example));
    add("adapter", json!(device.map(|device| &device.adapter)));
    add("driver", json!(device.map(|device| &device.driver)));
    add("backend", backend);
    add("device_type", json!(device.map(|device| format!("{:?}", device.device_type))));
    if let Value::Object(fields) = fields {
        object.extend(fields);
    }
    object.insert("pictures".to_owned(), json!(pictures));
    Ok(serde_json::to_string_pretty(&object)?)
}

/// What text calls a way to choose blocks or a cache, of which JSON has the name.
pub fn spoken(name: &str) -> String {
    name.replace("sink_window", "sink + window").replace("top_k", "top-k")
}

/// Says on the standard error how far a long piece of work is: on one line that changes, or in a
/// log now and then.
pub struct Progress {
    live: bool,
    begun: Instant,
    told: Option<Instant>,
}

/// Between two lines of a log.
const PAUSE: Duration = Duration::from_secs(5);

impl Default for Progress {
    fn default() -> Self {
        Self { live: std::io::stderr().is_terminal(), begun: Instant::now(), told: None }
    }
}

impl Progress {
    /// Progress from now on.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says what comes next.
    pub fn tell(&mut self, line: impl Display) {
        let due = self.told.is_none_or(|told| told.elapsed() >= PAUSE);
        // Nobody may be listening, which is no reason to stop.
        let mut error = std::io::stderr().lock();
        let _ = match self.live {
            true => write!(error, "\r{line}\x1b[K").and_then(|()| error.flush()),
            false if due => writeln!(error, "{line}"),
            false => Ok(()),
        };
        if due {
            self.told = Some(Instant::now());
        }
    }

    /// The work is done: what it was, to which the seconds that it took are added; nothing of what
    /// took no time.
    pub fn done(self, what: impl Display) {
        let seconds = self.begun.elapsed().as_secs_f64();
        let mut error = std::io::stderr().lock();
        if self.live && self.told.is_some() {
            let _ = write!(error, "\r\x1b[K");
        }
        if seconds >= 1.0 {
            let _ = writeln!(error, "{what}: {seconds:.1} s");
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        common: Common,
        #[arg(long, default_value_t = 2, default_value_if("quick", "true", "1"))]
        tokens: u16,
        #[arg(long)]
        adapter: Option<String>,
    }

    #[test]
    fn other_runs_have_a_folder_of_their_own() {
        let usual = |arguments: &[&str]| {
            let command = Arguments::command();
            let matches = command.clone().get_matches_from([&["example"], arguments].concat());
            is_usual(&command, &matches)
        };
        assert!(usual(&[]) && usual(&["--json", "--adapter", "llvm", "--out", "pictures"]));
        assert!(!usual(&["--quick"]) && !usual(&["--tokens", "2"]));
        let quick = Arguments::parse_from(["example", "--quick"]);
        assert!(quick.tokens == 1 && quick.common.quick && quick.adapter.is_none());

        let folder = tempfile::tempdir().unwrap();
        let common = Common { json: false, quick: false, out: Some(folder.path().join("a/b")) };
        assert!(common.folder("example", false).unwrap().is_dir());
    }

    #[test]
    fn every_object_names_its_device() {
        let text = object("positions", None, &["a.svg".into()], json!({ "heads": 8 })).unwrap();
        let object: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(object["adapter"], Value::Null);
        assert_eq!(object["backend"], Value::Null);
        assert_eq!((&object["heads"], &object["pictures"]), (&json!(8), &json!(["a.svg"])));
    }
}
