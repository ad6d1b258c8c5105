//! `lab word2vec`: what it prepares, judges, converts and refuses.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

struct Folder {
    folder: tempfile::TempDir,
}

/// Corners of a square: each analogy of two of its sides is right.
const VECTORS: &str = "5 2\nman 1.0 0.1\nking 1.0 1.0\nwoman 0.1 0.1\nqueen 0.1 1.0\nzero 0.0 0.0\n";

impl Folder {
    /// With vectors, ratings and questions of a few words.
    fn new() -> Self {
        let this = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir(this.path("data")).unwrap();
        for (name, text) in [
            ("vectors.txt", VECTORS),
            ("data/wordsim353.tsv", "# a\tb\tc\nMan\tking\t2\nking\tqueen\t3\nman\tqueen\t1\nman\tyak\t5\n"),
            ("data/simlex999.txt", "# none is covered\nyak\tgnu\t3\nox\tyak\t4\n"),
            ("data/questions-words.txt", ": family\nman king woman queen\nman king woman yak\n"),
        ] {
            std::fs::write(this.path(name), text).unwrap();
        }
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, arguments: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        command.arg("word2vec").args(arguments.split(' '));
        command.current_dir(self.folder.path()).env("RUST_BACKTRACE", "0").output().unwrap()
    }

    #[track_caller]
    fn ok(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn json(&self, arguments: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("evaluate --data data --json {arguments}"))).unwrap()
    }

    #[track_caller]
    fn refused(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{arguments} passed");
        assert!(!error.contains("panicked"), "{error}");
        error
    }
}

#[test]
fn texts_become_corpora() {
    let folder = Folder::new();
    std::fs::write(folder.path("one.txt"), "Mr. Bennet\nreplied.\n\nA Title\n\n\"No!\"").unwrap();
    std::fs::write(folder.path("two.txt"), "The end").unwrap();
    let said = folder.ok("text new/out.txt one.txt two.txt");
    assert!(said.starts_with("new/out.txt: 8 words in 5 lines, "), "{said}");
    let out = || std::fs::read_to_string(folder.path("new/out.txt")).unwrap();
    assert_eq!(out(), "mr\nbennet replied\na title\nno\nthe end\n");
    folder.ok("text --unit line new/out.txt one.txt");
    assert_eq!(out(), "mr bennet\nreplied\na title\nno\n");
    // What fails leaves what was there, and nothing beside it.
    let error = folder.refused("text new/out.txt one.txt none.txt");
    assert!(error.contains("none.txt"), "{error}");
    std::fs::create_dir(folder.path("folder.txt")).unwrap();
    let error = folder.refused("text new/out.txt one.txt folder.txt");
    assert!(error.contains("folder.txt"), "{error}");
    assert_eq!(out(), "mr bennet\nreplied\na title\nno\n");
    assert_eq!(std::fs::read_dir(folder.path("new")).unwrap().count(), 1);
}

#[test]
fn vectors_are_judged_with_their_coverage() {
    let folder = Folder::new();
    let object = folder.json("vectors.txt vectors.txt --threads 2");
    assert_eq!(object["files"][0]["wordsim353"], object["files"][1]["wordsim353"]);
    let file = &object["files"][0];
    let counts = |key: &str| [file[key]["pairs"].clone(), file[key]["covered"].clone()];
    assert_eq!(
        [counts("wordsim353"), counts("simlex999")],
        [[4, 3], [2, 0]].map(|pair| pair.map(Value::from))
    );
    // The ranks of the ratings are 2, 3, 1, 4; of the cosines all but one are equal: 3, 3, 1, 3.
    let spearman = file["wordsim353"]["spearman"].as_f64().unwrap();
    assert!((spearman - 3.0 / 15f64.sqrt()).abs() < 1e-12, "{spearman}");
    assert_eq!(file["simlex999"]["spearman"], Value::Null);
    let analogies = &file["analogies"];
    let tally = ["asked", "covered", "right"].map(|key| analogies[key].as_u64().unwrap());
    assert_eq!((tally, &analogies["accuracy"]), ([2, 1, 1], &Value::from(0.5)));
    assert_eq!(
        (&analogies["sections"][0]["name"], &analogies["accuracy_of_covered"]),
        (&"family".into(), &1.0.into())
    );
    let by_case = folder.json("vectors.txt --case --analogy mul");
    assert_eq!(by_case["files"][0]["wordsim353"]["covered"], 2);
    let halves = ["first", "second"].map(|half| folder.json(&format!("vectors.txt --half {half} --dropped")));
    let pairs = halves.map(|half| half["files"][0]["wordsim353"]["pairs"].as_u64().unwrap());
    assert_eq!(pairs, [2, 2]);
    let shown = folder.ok("evaluate --data data vectors.txt");
    for line in [
        "vectors.txt: 5 words × 2",
        "   3 of 4 pairs covered",
        "  SimLex-999   NaN   0 of 2 pairs covered",
        "  analogies    50.0%   1 of 2 right, 1 covered (100.0% of these)",
    ] {
        assert!(shown.contains(line), "{shown}");
    }
}

#[test]
fn formats_are_converted_both_ways() {
    let folder = Folder::new();
    folder.ok("convert vectors.txt vectors.bin");
    folder.ok("convert vectors.bin again.txt");
    assert_eq!(std::fs::read_to_string(folder.path("again.txt")).unwrap(), VECTORS);
    let object = folder.json("vectors.bin again.txt");
    let [one, two] = [0, 1].map(|file| object["files"][file].clone());
    assert_eq!([&one["format"], &two["format"]], ["binary", "text"]);
    for key in ["words_sha256", "values_sha256"] {
        assert_eq!((&one[key], one[key].as_str().unwrap().len()), (&two[key], 64));
    }
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let folder = Folder::new();
    std::fs::write(folder.path("torn.txt"), &VECTORS[..VECTORS.len() - 5]).unwrap();
    for (arguments, reason) in [
        ("evaluate --data data torn.txt", "torn.txt: corrupt data: line 6: the line has no end"),
        ("evaluate --data data none.txt", "none.txt: opening none.txt"),
        (
            "evaluate vectors.txt",
            "scripts/fetch-models similarity brings its files: target/similarity/wordsim353.tsv",
        ),
        ("convert torn.txt out.bin", "torn.txt: corrupt data"),
        ("convert vectors.txt none/out.bin", "writing none/out.bin"),
        ("evaluate", "VECTORS"),
    ] {
        let error = folder.refused(arguments);
        assert!(error.contains(reason), "{arguments}: {error}");
        assert!(!folder.path("out.bin").exists());
    }
}
