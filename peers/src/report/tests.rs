use super::*;
use crate::compare::{CORES, Held, Trial};
use crate::problem::Problem;

fn contestant(name: &str, seconds: &[f64]) -> Contestant {
    let mut contestant = Contestant::new(name, "so | so", || anyhow::bail!("made up"));
    contestant.failed = None;
    contestant.seconds = seconds.to_vec();
    contestant.cpu_seconds = seconds.to_vec();
    contestant.from_exact = Some(1e-7);
    contestant
}

/// A record with times that nobody measured, in which burn fails at S2.
pub fn made_up() -> Record {
    let comparison = |problem: &Problem| {
        let mut contestants = vec![
            contestant("prflash", &[0.01, 0.02, 0.01]),
            contestant("burn", &[0.08, 0.16, 0.09]),
            contestant("candle", &[0.008, 0.019, 0.0085]),
            contestant("f16 tensors", &[0.007, 0.008, 0.006]),
            contestant(CORES[0], &[0.004, 0.005, 0.004]),
            contestant(CORES[1], &[0.004, 0.005, 0.004]),
            contestant(CORES[2], &[0.008, 0.009, 0.008]),
            Contestant::absent(CORES[3], "no module\nnamed torch"),
        ];
        if problem.name == "S2" {
            contestants[1].fail("panicked: no\nsuch | shape".to_owned());
        }
        let native_held = match problem.is_decode() {
            true => vec![Held { index: 4, bytes: 1 << 20, relative_difference: 0.0 }],
            false => vec![],
        };
        let held = |index| Held { index, bytes: 1 << 20, relative_difference: 0.01 };
        let held = if problem.is_decode() { vec![held(0), held(3)] } else { vec![] };
        let failed = contestants[1].failed.clone();
        let trials = vec![Trial {
            name: "burn".to_owned(),
            how: "so".to_owned(),
            seconds: failed.is_none().then_some(0.1),
            failed,
        }];
        let (kernel, instructions) = ("kernel".to_owned(), "V4".to_owned());
        let cores = [4, 5, 6, 7];
        Comparison { problem: *problem, contestants, held, trials, kernel, cores, native_held, instructions }
    };
    let point = |len: usize| Point {
        len,
        blocks: len as u64,
        density: 0.1,
        visited_flops: 1e9,
        schedule_seconds: 0.001,
        sampled: contestant("PrFlash", &[len as f64 * 1e-6, len as f64 * 2e-6]),
        dense: (len < 20_000).then(|| contestant("dense", &[(len as f64).powi(2) * 1e-9; 2])),
    };
    let points: Vec<Point> = (10..16).map(|power| point(1 << power)).collect();
    let machine = Machine {
        device: "a device".to_owned(),
        adapter: "a device".to_owned(),
        burn_device: Some("a device".to_owned()),
        torch: None,
        torch_absent: Some("no module named torch".to_owned()),
        peaks: [1e11, 2e11],
        software: true,
        cpu: None,
        threads: 2,
    };
    let comparisons = Problem::SHAPES.iter().map(comparison).collect();
    let fit = crate::scaling::fit(&points);
    Record {
        machine,
        comparisons,
        growth: Growth { points, ended: Some("at N = 65536: too large".to_owned()) },
        native_growth: NativeGrowth {
            len: 32_768,
            density: 0.027,
            sampled: contestant("PrFlash", &[0.3, 0.31]),
            dense: contestant("dense", &[10.0, 10.1]),
        },
        fit,
        options: String::new(),
    }
}

#[test]
fn versions_are_those_of_the_lock_file() {
    assert!(version("burn").starts_with("0.22") && version("candle-core").starts_with("0.11"));
    assert_eq!(version("no such package"), "?");
}

#[test]
fn a_record_says_who_failed_and_who_was_faster() {
    let record = made_up();
    let text = record.markdown();
    assert!(text.contains("| S2 | burn | failed: panicked: no such / shape |"), "{text}");
    assert!(
        text.contains(
            "**Faster than prflash**: candle at S1, torch at S1, candle at S2, torch at S2, candle at"
        ),
        "{text}"
    );
    assert!(text.contains("| PrFlashAttention, time | **1.000 ± 0.000** |"), "{text}");
    assert!(text.contains("| dense attention, time | **2.000 ± 0.000** |"), "{text}");
    assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    assert_eq!(
        record.failures(),
        ["burn at S2: panicked: no\nsuch | shape", "growth ended at N = 65536: too large"]
    );
    assert!(text.contains("| S1 | torch, one thread | not run: no module named torch |"), "{text}");
    assert!(text.contains("torch took no part (no module named torch)."), "{text}");
    assert!(
        text.contains("| S1 | torch | 4.0 (4.0 to 5.0) | 268.4 | 134% | 1.00 (1.00 to 1.00) | 1.00 |"),
        "{text}"
    );
    assert!(
        text.contains("| f32 tensors | 1.0 | 4.0 (4.0 to 5.0) | 1.00 (1.00 to 1.00) | 0.0e0 |"),
        "{text}"
    );
    assert!(text.contains("by CPU time 0.0303"), "{text}");
    let json = record.json();
    assert_eq!(json["shapes"][3]["histories"][1]["name"], "f16 tensors");
    assert_eq!(json["shapes"][1]["peers"][1]["seconds"].as_array().map(Vec::len), Some(0));
}

#[test]
fn tables_are_rectangular() {
    let text = made_up().markdown();
    let mut columns = None;
    for line in text.lines() {
        columns = line.starts_with('|').then(|| {
            let count = line.matches('|').count();
            assert_eq!(columns.unwrap_or(count), count, "{line}");
            count
        });
    }
}

#[test]
fn files_appear_whole() {
    let out = std::env::temp_dir().join(format!("prflash-benchmarks-{}", std::process::id()));
    crate::write(&made_up(), &out).unwrap();
    for name in ["BENCHMARKS.md", "docs/benchmarks.json", "docs/images/peers.svg", "docs/images/scaling.svg"]
    {
        assert!(std::fs::metadata(out.join(name)).unwrap().len() > 1000, "{name}");
    }
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 2, "no partial file is left");
    if std::env::var_os("KEEP_PICTURES").is_none() {
        std::fs::remove_dir_all(&out).unwrap();
    }
}
