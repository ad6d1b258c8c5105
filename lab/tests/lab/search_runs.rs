//! Searches whose every score is computed: what is computed is never computed again, what comes of
//! them is written down, and what can't be is refused.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use candle_core::quantized::GgmlDType;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

use crate::common::Tiny;
use crate::common::output::{refused, succeeded, with_device};

struct Folder(tempfile::TempDir);

impl Folder {
    /// With a text of two pieces and a half, and ratings of some of its words.
    fn new() -> Self {
        let this = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(this.path("data")).unwrap();
        let mut random = SmallRng::seed_from_u64(3);
        // Each line is of words that are near each other.
        let mut line = |_| {
            let first = random.random_range(0..200);
            let words = (0..10).map(|_| format!("w{}", first + random.random_range(0..9)));
            words.collect::<Vec<_>>().join(" ")
        };
        std::fs::write(this.path("text.txt"), (0..2500).map(&mut line).collect::<Vec<_>>().join("\n"))
            .unwrap();
        let pair = |number: usize| {
            let (one, other) = (number * 7 % 200, number * 7 % 200 + number % 11);
            format!("w{one}\tw{other}\t{}\n", 11 - number % 11)
        };
        let pairs: String = (0..40).map(pair).collect();
        for (name, text) in [
            ("wordsim353.tsv", pairs.clone()),
            ("simlex999.txt", pairs),
            ("questions-words.txt", ": near\nw1 w2 w3 w4\nw5 w6 w7 w8\n".into()),
        ] {
            std::fs::write(this.path(&format!("data/{name}")), text).unwrap();
        }
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, mut command: Command, arguments: &str) -> Output {
        command.args(arguments.split(' ')).current_dir(self.0.path()).env("RUST_BACKTRACE", "0");
        command.output().unwrap()
    }

    #[track_caller]
    fn json(&self, arguments: &str) -> Value {
        let said = succeeded(self.run(with_device(), &format!("{arguments} --json")));
        serde_json::from_str(&said).unwrap()
    }

    /// What is refused before there is a device.
    #[track_caller]
    fn refused(&self, arguments: &str) -> String {
        refused(self.run(Command::new(env!("CARGO_BIN_EXE_lab")), arguments))
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// The report of what is there.
    fn report(&self) -> String {
        let report = "report --quick --results . --out report.md";
        succeeded(self.run(Command::new(env!("CARGO_BIN_EXE_lab")), report));
        self.read("report.md")
    }
}

fn scores(object: &Value) -> [u64; 2] {
    ["computed", "found"].map(|key| object["scores"][key].as_u64().unwrap())
}

#[test]
fn word2vec_is_searched_and_nothing_is_trained_twice() {
    if testkit::device::gpu("word2vec_is_searched_and_nothing_is_trained_twice").is_none() {
        return;
    }
    let folder = Folder::new();
    let of = "--text text.txt --part 2 --data data --folder scores";
    let search = format!(
        "search word2vec {of} --results search-runs.csv --methods random,tpe --runs 2 --trials 3 --again 1"
    );
    let first = folder.json(&search);
    let [computed, found] = scores(&first);
    // The first trials of both methods are the same points.
    assert_eq!([computed + found, found], [2 * 2 * (3 + 1), 2 * (3 + 1)]);
    let searches = first["searches"].as_array().unwrap();
    assert_eq!(searches.len(), 4);
    for row in searches {
        assert_eq!((&row["scope"], &row["trials"]), (&"part 2".into(), &3.into()));
        assert!(row["cpu_seconds"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(row["again"], 1, "{row}");
    }
    let rows = folder.read("search-runs.csv");
    assert_eq!(rows.lines().count(), 1 + 2 * 2 * 3);
    let kept = folder.read("scores/scores.jsonl");
    assert_eq!(kept.lines().count() as u64, computed);
    let line: Value = serde_json::from_str(kept.lines().next().unwrap()).unwrap();
    assert_eq!((&line["scope"], &line["seed"]), (&"part 2".into(), &0.into()));

    let again = folder.json(&search);
    assert_eq!(scores(&again), [0, computed + found]);
    assert_eq!((folder.read("search-runs.csv"), folder.read("scores/scores.jsonl")), (rows, kept));
    // More runs go on from there.
    let more = folder.json(&search.replace("--runs 2", "--runs 3"));
    assert_eq!(scores(&more), [4, computed + found + 4]);

    let finals = folder.json(&format!(
        "search finals {of} --seeds 1 --searches search-runs.csv --results search-finals.csv"
    ));
    let trained = finals["trainings"].as_array().unwrap();
    let names: Vec<&str> = trained.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names[..3], ["random", "TPE", "defaults, skip-gram"]);
    assert_eq!((names.len(), &trained[0]["values"]), (6, &trained[1]["values"]));
    let tau = folder.json(&format!("search tau {of} --points 2 --results search-tau.csv"));
    assert_eq!((scores(&tau), tau["points"].as_array().unwrap().len()), ([6, 0], 2));

    let report = folder.report();
    for line in [
        "### word2vec, part 2: 3 trials",
        "| best so far after so many trials | 1 | 2 | 3 |",
        "| … over random | 1 | 2 | 3 |",
        "| TPE | +0.0000 ± 0.0000 |",
        "### What was found, trained on all of the text",
        "| defaults, bag-of-words | 1 |",
        "| part 2 and part 1 | ",
        "2 random points",
    ] {
        assert!(report.contains(line), "{line}\n{report}");
    }

    // The folder is of this text.
    std::fs::write(folder.path("other.txt"), "w1 w2\n".repeat(20)).unwrap();
    let error = folder.refused(&search);
    assert!(error.contains("it has 3 runs of random (word2vec, part 2), and would have 2"), "{error}");
    let error = folder.refused(&search.replace("text.txt", "other.txt").replace("--runs 2", "--runs 3"));
    assert!(error.contains("scores/store.json: the scores there are of "), "{error}");
}

#[test]
fn participation_is_searched_at_equal_blocks() {
    if testkit::device::gpu("participation_is_searched_at_equal_blocks").is_none() {
        return;
    }
    let folder = Folder::new();
    Tiny::Llama.write(&folder.path("tiny.gguf"), GgmlDType::Q8_0);
    let text = |name: &str, words| std::fs::write(folder.path(name), crate::common::text(words)).unwrap();
    text("one.txt", 2500);
    text("two.txt", 2600);
    let search = "search participation --model tiny.gguf --text one.txt --report two.txt --windows 1 --folder kept \
                  --results search-runs.csv --methods random,tree --runs 1 --trials 3 --again 1";
    let first = folder.json(search);
    assert_eq!(scores(&first), [4, 4]);
    let searches = first["searches"].as_array().unwrap();
    for row in searches {
        let number = |key: &str| row[key].as_f64().unwrap();
        assert_eq!(row["scope"], "8 blocks of 16 in 512 tokens, report of 1");
        assert!(number("again_select").abs() < 1.0 && number("again_report").abs() < 1.0, "{row}");
    }
    for line in folder.read("kept/scores.jsonl").lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        // 8 of 32 blocks in rows that have them.
        let blocks = line["outcome"]["scored"]["more"]["blocks"].as_f64().unwrap();
        assert!((blocks - 7.125).abs() < 0.01, "{line}");
        assert_eq!(line["outcome"]["scored"]["report"].is_null(), line["seed"].as_u64().unwrap() < 1000);
    }
    assert_eq!(scores(&folder.json(search)), [0, 8]);
    assert!(
        folder.report().contains("### participation, 8 blocks of 16 in 512 tokens, report of 1: 3 trials")
    );
}

#[test]
fn what_cannot_be_searched_is_refused_by_name() {
    let folder = Folder::new();
    let refused = |arguments: &str| folder.refused(&format!("search {arguments}"));
    let of = "--text text.txt --data data";
    for (arguments, reason) in [
        (format!("word2vec {of} --methods best"), "--methods"),
        (format!("word2vec {of} --trials 0"), "--trials"),
        (format!("word2vec {of} --part 0"), "--part"),
        ("word2vec --text none.txt --data data".into(), "none.txt"),
        ("word2vec --text text.txt --data none".into(), "wordsim353.tsv"),
        (format!("finals {of}"), "no searches of part 8 with winners scored again"),
        (format!("tau {of} --points 1"), "--points"),
        (format!("tau {of} --points 99999"), "--points: the space has 23328 points, 99999 were asked for"),
        ("participation --text text.txt --width 500".into(), "--width: expected a multiple of 512, got 500"),
        ("participation --text text.txt --blocks 7".into(), "--blocks: expected 8 to 32, got 7"),
        ("participation --text none.txt".into(), "none.txt"),
    ] {
        let error = refused(&arguments);
        assert!(error.contains(reason), "{arguments}: {error}");
    }
    assert!(!Path::new(&folder.path("target")).exists());
}
