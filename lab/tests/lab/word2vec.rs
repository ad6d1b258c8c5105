//! `lab word2vec`: what it prepares, judges, converts and refuses.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

use crate::common::output::{refused, succeeded, with_device};

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

    fn command(&self, arguments: &str) -> Command {
        let mut command = with_device();
        command.arg("word2vec").args(arguments.split(' '));
        command.current_dir(self.folder.path()).env("RUST_BACKTRACE", "0");
        command
    }

    fn run(&self, arguments: &str) -> Output {
        self.command(arguments).output().unwrap()
    }

    #[track_caller]
    fn ok(&self, arguments: &str) -> String {
        succeeded(self.run(arguments))
    }

    #[track_caller]
    fn json(&self, arguments: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("evaluate --data data --json {arguments}"))).unwrap()
    }

    #[track_caller]
    fn refused(&self, arguments: &str) -> String {
        refused(self.run(arguments))
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

/// A text of which much is known: words of two kinds that are never in one sentence.
fn sentences(count: usize) -> String {
    let line = |number: usize| {
        let words = if number.is_multiple_of(2) { ["man", "king", "crown"] } else { ["sea", "ship", "sail"] };
        let word = |at: usize| words[(number * 7 + at * at + number / 5) % 3];
        (0..6).map(word).collect::<Vec<_>>().join(" ")
    };
    (0..count).map(line).collect::<Vec<_>>().join("\n") + "\n"
}

/// What gensim would have left, with the vectors of [`VECTORS`].
const PEER: &str = r#"{
  "peer": "gensim", "version": "gensim 4", "text": "corpus.txt", "vectors": "vectors.txt", "read": "sentences",
  "settings": { "sg": 1, "vector_size": 8, "window": 3, "negative": 5, "min_count": 5, "epochs": 20, "workers": 1, "seed": 1 },
  "raw_words_per_s": 1000, "raw_words_per_cpu_s": 500
}"#;

#[test]
fn trainings_are_written_and_compared() {
    if testkit::device::gpu("trainings_are_written_and_compared").is_none() {
        return;
    }
    let folder = Folder::new();
    std::fs::write(folder.path("corpus.txt"), sentences(400)).unwrap();
    let train = "train corpus.txt --dimension 8 --window 3 --epochs 20 --batch 64 --sample 0 --cap 8 --rates 0.05,0.01";
    let told: Value =
        serde_json::from_str(&folder.ok(&format!("{train} --out ours --seeds 1,2 --json"))).unwrap();
    let seeds = told["seeds"].as_array().unwrap();
    assert_eq!(seeds.len(), 2);
    for (number, seed) in (1..).zip(seeds) {
        let path = folder.path(&format!("ours/seed-{number}/train.json"));
        assert_eq!(serde_json::from_str::<Value>(&std::fs::read_to_string(path).unwrap()).unwrap(), *seed);
        let number = |key: &str| seed[key].as_f64().unwrap();
        assert_eq!((number("words"), number("raw_words"), number("timed_part")), (6.0, 2400.0, 1.0));
        assert!(number("raw_words_per_s") > 0.0 && number("cpu_seconds") > 0.0, "{seed}");
        assert_eq!((&seed["settings"]["window"], &seed["settings"]["cap"]), (&3.into(), &8.into()));
    }
    let read = |seed: u32| std::fs::read_to_string(folder.path(&format!("ours/seed-{seed}/vectors.txt")));
    let vectors =
        prflash::word2vec::WordVectors::read(prflash::word2vec::Format::Text, read(1).unwrap().as_bytes())
            .unwrap();
    let near: Vec<&str> = vectors.nearest("sea", 2).unwrap().into_iter().map(|(word, _)| word).collect();
    assert!(near.contains(&"ship") && near.contains(&"sail"), "{near:?}");
    assert_ne!(read(1).unwrap(), read(2).unwrap());
    // What is over stays as it is, and isn't taken for another training.
    let before = std::fs::metadata(folder.path("ours/seed-2/train.json")).unwrap().modified().unwrap();
    folder.ok(&format!("{train} --out ours --seeds 2 --resume"));
    let after = std::fs::metadata(folder.path("ours/seed-2/train.json")).unwrap().modified().unwrap();
    assert_eq!(before, after);
    let error = folder.refused(&format!("{train} --out ours --seeds 2 --resume --negative 7"));
    assert!(error.contains("it is of another text or other options"), "{error}");
    folder.ok(&format!("{train} --out binary --format binary --architecture bag-of-words"));
    assert!(folder.path("binary/seed-1/vectors.bin").exists());

    std::fs::create_dir_all(folder.path("peers/seed-1")).unwrap();
    std::fs::write(folder.path("peers/seed-1/peer.json"), PEER).unwrap();
    std::fs::write(folder.path("peers/seed-1/vectors.txt"), VECTORS).unwrap();
    let compare = "compare --data data --results rows/word2vec.csv";
    let object: Value =
        serde_json::from_str(&folder.ok(&format!("{compare} --json ours binary peers"))).unwrap();
    let rows = object["rows"].as_array().unwrap();
    let of = |key: &str| rows.iter().map(|row| row[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("trainer"), ["prflash", "prflash", "prflash", "gensim"]);
    assert_eq!(of("architecture"), ["skip-gram", "skip-gram", "bag-of-words", "skip-gram"]);
    assert_eq!(of("batch"), [64.into(), 64.into(), 64.into(), Value::Null]);
    assert_eq!(
        (&rows[3]["analogies_right"], &rows[3]["settings"]),
        (&1.into(), &"workers 1; read sentences".into())
    );
    assert_eq!(
        rows[0]["settings"],
        "shared 32; sample 0.0; ns_exponent 0.75; rates [0.05,0.01]; cap 8; longest 10000"
    );
    // Measured again, they are renewed.
    folder.ok(&format!("{compare} ours"));
    let lines = std::fs::read_to_string(folder.path("rows/word2vec.csv")).unwrap();
    assert_eq!(lines.lines().count(), 5);
    let mut report = Command::new(env!("CARGO_BIN_EXE_lab"));
    report.args(["report", "--quick", "--results", "rows", "--out", "report.md"]);
    assert!(report.current_dir(folder.folder.path()).output().unwrap().status.success());
    let text = std::fs::read_to_string(folder.path("report.md")).unwrap();
    for line in [
        "### corpus.txt, skip-gram, 8 numbers",
        "| gensim; workers 1; read sentences | 1 | 0.775 | – | 50.0 | 1000 | 500 |",
        "| prflash, batch 64; shared 32;",
        "the differences to the mean over all trainings of `gensim` here:",
        "-50.0, below |",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let error = folder.refused(&format!("{compare} data"));
    assert!(error.contains("data: no train.json and no peer.json in it"), "{error}");
}

#[test]
fn trainings_that_cannot_be_are_refused_by_name() {
    let folder = Folder::new();
    std::fs::write(folder.path("corpus.txt"), "a b c\n").unwrap();
    for (arguments, reason) in [
        ("train none.txt --out o", "none.txt"),
        ("train corpus.txt", "--out"),
        ("train corpus.txt --out o --dimension 0", "dimension: expected 1 to 512, got 0"),
        ("train corpus.txt --out o --rates 0.1,0.2", "rates: expected 0 < last ≤ first"),
        ("train corpus.txt --out o --rates 0.1", "expected two numbers with a comma between, got \"0.1\""),
        ("train corpus.txt --out o", "text: expected words that come at least 5 times, got none among 3"),
    ] {
        let error = folder.refused(arguments);
        assert!(error.contains(reason), "{arguments}: {error}");
        assert!(!folder.path("o").exists(), "{arguments}");
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_a_checkpoint_to_go_on_from() {
    use std::io::{BufRead as _, BufReader};
    use std::process::Stdio;

    if testkit::device::gpu("ctrl_c_leaves_a_checkpoint_to_go_on_from").is_none() {
        return;
    }
    let folder = Folder::new();
    std::fs::write(folder.path("corpus.txt"), sentences(4000)).unwrap();
    let train = "train corpus.txt --dimension 16 --epochs 20 --sample 0 --batch 512 --seeds 3";
    let mut child = folder
        .command(&format!("{train} --out one"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("seed 3, epoch 1 of 20, ")));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    assert!(rest.iter().any(|line| line.ends_with("checkpoint: --resume goes on from here")), "{rest:?}");
    let there = |name: &str| folder.path(&format!("one/seed-3/{name}")).exists();
    assert_eq!(["checkpoint", "train.json", "vectors.txt"].map(there), [true, false, false]);
    // Another training doesn't go on from it, and leaves it.
    let error = folder.refused(&format!("{train} --out one --resume --window 4"));
    assert!(error.contains("expected a checkpoint of this corpus and these options"), "{error}");
    folder.ok(&format!("{train} --out one --resume"));
    assert_eq!(["checkpoint", "train.json", "vectors.txt"].map(there), [false, true, true]);
    folder.ok(&format!("{train} --out two"));
    let read = |name: &str| std::fs::read(folder.path(&format!("{name}/seed-3/vectors.txt"))).unwrap();
    assert!(read("one") == read("two"), "it went on to other vectors");
    let told = std::fs::read_to_string(folder.path("one/seed-3/train.json")).unwrap();
    let part = serde_json::from_str::<Value>(&told).unwrap()["timed_part"].as_f64().unwrap();
    assert!(part > 0.0 && part < 1.0, "{part}");
}
