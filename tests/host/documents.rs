//! What readers see first: lengths, links, and numbers that stand in two files.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The documents that are wrapped for people who read them as text.
const WRAPPED: [&str; 3] = ["README.md", "docs/LIMITS.md", "docs/MEASURED.md"];
/// All documents whose links are looked at.
const LINKING: [&str; 8] = [
    "README.md",
    "ARCHITECTURE.md",
    "BENCHMARKS.md",
    "docs/LIMITS.md",
    "docs/MEASURED.md",
    "lab/README.md",
    "lab/RESULTS.md",
    "fixtures/README.md",
];

#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 150, "README.md has {lines} lines");
}

#[test]
fn lines_are_narrow() {
    for path in WRAPPED {
        for (number, line) in read(path).lines().enumerate() {
            // A table's row can't be wrapped.
            let wide = line.chars().count() > 100 && !line.starts_with('|');
            assert!(!wide, "{path}:{}: more than 100 columns", number + 1);
        }
    }
}

/// The address of a heading, as code hosts make it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn links_lead_somewhere() {
    let mut links = 0;
    for path in LINKING {
        let text = read(path);
        let folder = root().join(path).parent().unwrap().to_path_buf();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.starts_with("http") {
                continue;
            }
            links += 1;
            let (file, place) = target.split_once('#').unwrap_or((target, ""));
            let to = if file.is_empty() { root().join(path) } else { folder.join(file) };
            assert!(to.exists(), "{path}: {target} leads nowhere");
            if !place.is_empty() {
                let other = std::fs::read_to_string(&to).unwrap();
                let mut headings = other.lines().filter_map(|line| line.strip_prefix('#'));
                let found = headings.any(|heading| anchor(heading.trim_start_matches('#')) == place);
                assert!(found, "{path}: {target}: there is no such heading");
            }
        }
    }
    assert!(links > 20, "{links} links");
}

/// The ratios beside the peers are written into BENCHMARKS.md by the command that measures them;
/// the README may only repeat them.
#[test]
fn the_readme_repeats_what_was_measured() {
    let cells = |line: &str| -> Vec<String> { line.split('|').map(|cell| cell.trim().to_owned()).collect() };
    let row = |text: &str, name: &str| -> Vec<String> {
        let line = text.lines().find(|line| line.starts_with(&format!("| {name} ")) && line.contains('×'));
        cells(line.unwrap_or_else(|| panic!("no row of {name}")))
    };
    let (readme, benchmarks) = (read("README.md"), read("BENCHMARKS.md"));
    for name in ["S1", "S2", "S3", "S4"] {
        let (short, full) = (row(&readme, name), row(&benchmarks, name));
        let repeated: Vec<&String> = [1, 2, 5, 6].iter().map(|&column| &full[column]).collect();
        assert_eq!(short[1..5].iter().collect::<Vec<_>>(), repeated);
    }
}
