//! `lab subword`: what it trains, encodes and refuses, and what an interruption leaves.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::common::output::{refused, succeeded};

struct Folder {
    folder: tempfile::TempDir,
}

impl Folder {
    /// With a text of some hundred words, again and again, in two parts.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/persuasion.txt");
        let text = std::fs::read(fixture).unwrap();
        let cut = text[..60_000].iter().rposition(|&byte| byte == b'\n').unwrap() + 1;
        std::fs::write(folder.path().join("one.txt"), &text[..cut]).unwrap();
        std::fs::write(folder.path().join("two.txt"), &text[cut..120_000]).unwrap();
        std::fs::write(folder.path().join("both.txt"), &text[..120_000]).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        command.arg("subword").args(arguments.split(' '));
        command.current_dir(self.folder.path()).env("RUST_BACKTRACE", "0");
        command
    }

    fn run(&self, arguments: &str) -> Output {
        self.command(arguments).output().unwrap()
    }

    #[track_caller]
    fn json(&self, arguments: &str) -> Value {
        serde_json::from_str(&succeeded(self.run(&format!("{arguments} --json")))).unwrap()
    }

    #[track_caller]
    fn refused(&self, arguments: &str) -> String {
        refused(self.run(arguments))
    }
}

#[test]
fn what_is_trained_encodes_and_decodes() {
    let folder = Folder::new();
    for (kind, files) in
        [("swe", "--hugging-face swe.json"), ("bpe", "--hugging-face bpe.json --ranks bpe.ranks")]
    {
        let trained = folder.json(&format!(
            "train --text both.txt --size 600 --kind {kind} --out {kind}.model {files} --words-out words.tsv"
        ));
        assert_eq!(trained["pieces"], 600);
        assert_eq!(trained["interrupted"], false);
        assert_eq!(trained["rounds"].is_u64(), kind == "swe");
        let encoded = folder.json(&format!("encode --model {kind}.model --text both.txt --out ids"));
        assert_eq!(encoded["bytes"], 120_000);
        assert_eq!(folder.read("ids").len() as u64, 4 * encoded["tokens"].as_u64().unwrap());
        assert!(encoded["bytes_per_token"].as_f64().unwrap() > 2.0);
        let decoded = folder.run(&format!("encode --model {kind}.model --decode ids"));
        assert!(decoded.stdout == folder.read("both.txt"));
        // The other format gives the same ids, and so do two threads.
        let again = format!("encode --model {kind}.json --text both.txt --out again --threads 2");
        assert_eq!(folder.json(&again)["tokens"], encoded["tokens"]);
        assert!(folder.read("again") == folder.read("ids"));
    }
    let shown = folder.run("encode --model bpe.model --text one.txt --show");
    assert!(String::from_utf8_lossy(&shown.stdout).lines().count() > 10_000);
}

/// A corpus in parts, by text, by table and by standard input, trains the same file as the whole.
#[test]
fn shards_and_threads_leave_no_trace() {
    let folder = Folder::new();
    let options = "--size 300 --minimum-count 2 --kind wordpiece --words-out one.tsv";
    folder.json(&format!("train --text one.txt --out one.model {options}"));
    folder.json("train --text one.txt --text two.txt --size 500 --out by-text.model --threads 2");
    folder.json("train --words one.tsv --text two.txt --size 500 --out by-table.model");
    let mut child = folder
        .command("train --words one.tsv --text - --size 500 --out by-input.model")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&folder.read("two.txt")).unwrap();
    assert!(child.wait().unwrap().success());
    let model = folder.read("by-text.model");
    assert!(folder.read("by-table.model") == model);
    assert!(folder.read("by-input.model") == model);
}

#[test]
fn what_cannot_be_is_refused_by_name_and_leaves_nothing() {
    let folder = Folder::new();
    let train = "train --text one.txt --out out.model";
    for (arguments, reason) in [
        (format!("{train} --size 255"), "--size: pieces: expected at least the 256 bytes, got 255"),
        (format!("{train} --size 400 --lambda -1"), "unexpected argument '-1'"),
        (format!("{train} --size 400 --lambda=-1"), "--lambda: lambda: expected 0 to 1024, got -1"),
        (format!("{train} --size 400 --steps 0"), "expected unlimited, fewest or a number from 1, got \"0\""),
        (
            format!("{train} --size 400 --steps fewest"),
            "--steps fewest: such pieces are trained by --cost unit",
        ),
        (format!("{train} --size 400 --ranks r"), "--ranks: tiktoken has merges"),
        (
            format!("{train} --size 400 --steps 2 --hugging-face h.json"),
            "--hugging-face: a tokenizer.json has no limit",
        ),
        (format!("{train} --pattern gpt3"), "expected one of gpt2, cl100k"),
        ("train --text none.txt --size 400 --out out.model".into(), "--text: reading none.txt"),
        (
            "train --words one.txt --size 400 --out out.model".into(),
            "--words one.txt: corrupt data: line 1: ",
        ),
        ("train --size 400 --out out.model".into(), "--text"),
        ("encode --model one.txt --text two.txt".into(), "--model one.txt: corrupt data: line 1: "),
        ("encode --model one.txt".into(), "--text"),
        ("compare --name a --train one.txt --part 1".into(), "--part: expected between 0 and 1, got 1"),
        ("compare --name a --train one.txt --held-out none.txt".into(), "--held-out none.txt"),
    ] {
        let error = folder.refused(&arguments);
        assert!(error.contains(reason), "{arguments}: {error}");
        assert!(!folder.path("out.model").exists() && !folder.path("h.json").exists(), "{arguments}");
    }
}

#[test]
fn comparisons_are_written_as_rows_and_renewed() {
    let folder = Folder::new();
    let compare =
        "compare --name a --train one.txt --held-out two.txt --sizes 400 --results rows.csv --only BPE";
    let object = folder.json(&format!("{compare} --only SWE"));
    let rows = object["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 14, "{rows:?}");
    for row in rows {
        assert_eq!(row["lossless"], true);
        let number = |key: &str| row[key].as_f64().unwrap();
        assert!(
            number("bytes_per_token") > 1.0 && number("unigram_bits") > number("five_gram_bits"),
            "{row}"
        );
        assert!((0.0..=1.0).contains(&number("renyi_efficiency")) && number("used") > 0.3, "{row}");
    }
    let first = folder.read("rows.csv");
    assert_eq!(String::from_utf8_lossy(&first).lines().count(), 15);
    folder.json(compare);
    assert_eq!(String::from_utf8_lossy(&folder.read("rows.csv")).lines().count(), 15);
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_the_last_whole_round() {
    let folder = Folder::new();
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/persuasion.txt");
    std::fs::copy(fixture, folder.path("long.txt")).unwrap();
    let mut child = folder
        .command("train --text long.txt --size 2000 --out out.model")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("round 1,")));
    let signalled = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(signalled.success());
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    assert!(rest.iter().any(|line| line == "interrupted"), "{rest:?}");
    let encoded = folder.json("encode --model out.model --text one.txt");
    assert!(encoded["tokens"].as_u64().unwrap() > 1000);
}
