//! `lab search table`: what it computes from a table, reads of another program, and refuses.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::common::output::{refused, succeeded};

/// A table of 60 scores of 240 points, of which the last ones are the best.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let space = r#"{"parameters": [
        {"name": "rate", "scale": "Ordinal", "values": [1e-05, 0.0001, 0.001, 0.01, 0.1]},
        {"name": "kind", "scale": "Nominal", "values": ["a", "b", "c"]},
        {"name": "size", "scale": "Ordinal", "values": [1, 2, 4, 8]},
        {"name": "epochs", "scale": "Ordinal", "values": [1, 2, 3, 4]}
    ]}"#;
    std::fs::write(folder.path().join("made.json"), space).unwrap();
    let mut rows = "point,rate,kind,size,epochs,score,cpu_seconds\n".to_owned();
    for number in (0..240).step_by(4).map(|number| number + number / 4 % 4) {
        let [rate, kind, size, epochs] = [number / 48, number / 16 % 3, number / 4 % 4, number % 4];
        let score = rate as f64 * 0.1 + [0.0, 0.3, 0.2][kind] + size as f64 * epochs as f64 * 0.05;
        let rate = ["1e-05", "0.0001", "0.001", "0.01", "0.1"][rate];
        let kind = ["a", "b", "c"][kind];
        rows += &format!("{number},{rate},{kind},{},{},{score},0.5\n", 1 << size, epochs + 1);
    }
    std::fs::write(folder.path().join("made.csv"), rows).unwrap();
    folder
}

fn run(folder: &Path, arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    command.args(["search", "table", "--tables", ".", "--folder", "out", "--results", "search.csv"]);
    command.args(arguments.split(' ')).current_dir(folder).env("RUST_BACKTRACE", "0").output().unwrap()
}

fn rows(folder: &Path) -> Vec<Value> {
    let object = succeeded(run(folder, "--names made --seeds 8 --json"));
    let object: Value = serde_json::from_str(&object).unwrap();
    object["rows"].as_array().unwrap().clone()
}

#[test]
fn every_method_is_replayed_and_written_down() {
    let folder = folder();
    let found = rows(folder.path());
    assert_eq!(found.len(), 7 * 5);
    for row in &found {
        let mean = row["mean"].as_f64().unwrap();
        assert!((0.0..4.0).contains(&mean) && row["seeds"] == 8 && row["scores"] == 60, "{row}");
        assert!(row["fit_r2"].as_f64().unwrap() > 0.9, "{row}");
        assert!(row["method"] != "TPE" || row["over_tpe"] == 0.0, "{row}");
    }
    // The same again.
    assert_eq!(rows(folder.path()), found);

    let scores = std::fs::read_to_string(folder.path().join("out/made.json")).unwrap();
    let scores: Value = serde_json::from_str(&scores).unwrap();
    let mut scores: Vec<f64> =
        scores["scores"].as_array().unwrap().iter().map(|score| score.as_f64().unwrap()).collect();
    assert_eq!(scores.len(), 240);
    scores.sort_by(f64::total_cmp);
    let (median, largest) = ((scores[119] + scores[120]) / 2.0, scores[239]);

    // Another program, by two seeds: the best at once, and the median for ever.
    let mut peers = "method,program,seed,trials,best,largest,median\n".to_owned();
    for (seed, best) in [(0, largest), (1, median)] {
        for trials in [12, 24, 48, 96, 144] {
            peers += &format!("theirs,optuna,{seed},{trials},{best},{largest},{median}\n");
        }
    }
    let path = folder.path().join("made.peers.csv");
    std::fs::write(&path, &peers).unwrap();
    let found = rows(folder.path());
    let theirs: Vec<&Value> = found.iter().filter(|row| row["method"] == "theirs").collect();
    assert_eq!(theirs.len(), 5);
    assert!(theirs.iter().all(|row| row["mean"] == 0.5 && row["error"] == 0.5 && row["over_tpe"].is_null()));

    for (text, reason) in [
        (peers.replace(&format!(",{largest},"), ",9.5,"), "it is of another surrogate"),
        (
            peers.lines().take(4).collect::<Vec<_>>().join("\n"),
            "theirs, seed 0: expected trials [12, 24, 48, 96, 144]",
        ),
    ] {
        std::fs::write(&path, text).unwrap();
        let output = run(folder.path(), "--names made --seeds 8");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(reason), "{error}");
    }
}

#[test]
fn refusals_name_the_file_and_the_row() {
    let folder = folder();
    let refused = |arguments: &str| refused(run(folder.path(), arguments));
    assert!(refused("--names other").contains("other.json"));
    assert!(refused("--names made --seeds 1").contains("--seeds"));
    let path = folder.path().join("made.csv");
    let rows = std::fs::read_to_string(&path).unwrap();
    for (from, to, reason) in [
        ("0.0001,", "0.0002,", "rate: 0.0002 is not among its values"),
        (",0.5\n", ",long\n", "cpu_seconds: expected a number, got \"long\""),
        ("score,", "scores,", "score: there is no such column"),
    ] {
        std::fs::write(&path, rows.replacen(from, to, 1)).unwrap();
        let error = refused("--names made");
        assert!(error.contains("made.csv, row ") && error.contains(reason), "{error}");
    }
}
