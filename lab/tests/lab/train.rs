//! `lab train`: what it leaves in a folder, what an interruption leaves, and what it refuses.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::output::{refused, succeeded, with_device};

struct Folder {
    folder: tempfile::TempDir,
}

/// A model so small that a step takes a moment.
const SMALL: &str = "train --text read.txt --held-out judged.txt --pieces 280 --layers 1 --width 16 --heads 2 \
    --kv-heads 1 --hidden 24 --context 16 --batch 4";

impl Folder {
    /// With a text to read and one to be judged by.
    fn new() -> Self {
        let this = Self { folder: tempfile::tempdir().unwrap() };
        let line = |number: usize| {
            let [who, what] = [["The cat", "A dog", "My sister"], ["sleeps", "runs home", "sings"]];
            format!("{} {} {}.\n", who[number % 3], what[number / 3 % 3], ["today", "again"][number / 7 % 2])
        };
        for (name, lines) in [("read.txt", 0..300), ("judged.txt", 300..320)] {
            std::fs::write(this.path(name), lines.map(line).collect::<String>()).unwrap();
        }
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = with_device();
        command.args(arguments.split_whitespace());
        command.current_dir(self.folder.path()).env("RUST_BACKTRACE", "0");
        command
    }

    #[track_caller]
    fn json(&self, arguments: &str) -> Value {
        let said = succeeded(self.command(&format!("{arguments} --json")).output().unwrap());
        serde_json::from_str(&said).unwrap()
    }

    #[track_caller]
    fn refused(&self, arguments: &str) -> String {
        refused(self.command(arguments).output().unwrap())
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }
}

#[test]
fn a_training_is_told_and_put_into_the_results() {
    let folder = Folder::new();
    let train = format!("{SMALL} --steps 40 --out small --results rows/train.csv");
    let told = folder.json(&train);
    let row = &told["training"];
    assert_eq!(*row, serde_json::from_slice::<Value>(&folder.read("small/train.json")).unwrap());
    assert_eq!((&row["steps"], &row["tokens"], &row["backend"]), (&40.into(), &2560.into(), &"cpu".into()));
    let number = |key: &str| row[key].as_f64().unwrap();
    assert!(number("tokens_per_s") > 0.0 && number("seconds") > 0.0, "{row}");
    // Sentences of a few words have few bits; a byte that nothing is known of has eight.
    for key in ["trigram_bits", "five_gram_bits", "bits_per_byte"] {
        assert!((0.05..4.0).contains(&number(key)), "{key} of {row}");
    }
    let losses = String::from_utf8(folder.read("small/losses.csv")).unwrap();
    assert_eq!(losses.lines().count(), 41, "{losses}");
    assert!(folder.path("small/vocabulary").exists() && folder.path("small/model").exists());
    assert!(!folder.path("small/checkpoint").exists(), "a training that is over has no checkpoint");
    // What is over stays as it is, and isn't taken for another training.
    let [before, model] = ["small/train.json", "small/model"].map(|name| folder.read(name));
    assert_eq!(folder.json(&format!("{train} --resume"))["training"], *row);
    assert!(before == folder.read("small/train.json") && model == folder.read("small/model"));
    assert_eq!(String::from_utf8(folder.read("rows/train.csv")).unwrap().lines().count(), 2);
    let error = folder.refused(&format!("{train} --resume --seed 2"));
    assert!(error.contains("it is of other texts, another --backend or other options"), "{error}");
}

#[cfg(unix)]
#[test]
fn an_interrupted_training_goes_on() {
    let folder = Folder::new();
    let train = format!("{SMALL} --steps 20000 --out long");
    let mut child = folder.command(&train).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("step 1 of") {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "it ended before its first step");
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    assert!(rest.contains("--resume goes on from here"), "{rest}");
    let steps = || String::from_utf8(folder.read("long/losses.csv")).unwrap().lines().count() - 1;
    assert!(folder.path("long/checkpoint").exists() && (1..20_000).contains(&steps()));
    let error = folder.refused(&format!("{train} --resume --rate 0.001"));
    assert!(error.contains("checkpoint"), "{error}");
}

#[test]
fn every_attention_takes_the_same_steps() {
    if testkit::device::gpu("every_attention_takes_the_same_steps").is_none() {
        return;
    }
    let folder = Folder::new();
    let told = folder.json(&format!("{SMALL} --out none --compare 5"));
    let curves = told["curves"].as_array().unwrap();
    let names: Vec<&str> = curves.iter().map(|curve| curve["backend"].as_str().unwrap()).collect();
    assert_eq!(names, ["candle", "cpu", "gpu"]);
    for curve in curves {
        assert_eq!(curve["losses"].as_array().unwrap().len(), 5);
        assert!(curve["farthest"].as_f64().unwrap() < 2e-5, "{curve}");
    }
    assert!(!folder.path("none").exists(), "a comparison writes nothing");
}

#[test]
fn what_does_not_do_is_refused_by_name() {
    let folder = Folder::new();
    std::fs::write(folder.path("short.txt"), "a cat").unwrap();
    for (arguments, named) in [
        ("train --text none.txt --held-out judged.txt", "--text none.txt"),
        ("train --text read.txt --held-out none.txt", "--held-out none.txt"),
        ("train --text short.txt --held-out judged.txt --pieces 256", "--text: expected more than"),
        ("train --text read.txt --held-out judged.txt --pieces 100", "--pieces"),
        ("train --text read.txt --held-out judged.txt --heads 3 --kv-heads 1", "--width"),
        ("train --text read.txt --held-out judged.txt --steps 0", "--steps"),
        ("train --text read.txt --held-out judged.txt --rate=-1", "--rate"),
        ("train --quick", "scripts/fetch-models brings it"),
    ] {
        let error = folder.refused(&format!("{arguments} --out bad"));
        assert!(error.contains(named), "{arguments}: {error}");
        assert!(!folder.path("bad/train.json").exists() && !folder.path("bad/model").exists());
    }
}
