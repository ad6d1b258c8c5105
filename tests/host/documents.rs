//! What readers see first: lengths, links, and numbers that stand in two files.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every Markdown file of the repository, and every source.
fn files(endings: &[&str]) -> Vec<String> {
    fn walk(folder: &Path, endings: &[&str], found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                if !["target", "node_modules"].contains(&name) && !name.starts_with('.') {
                    walk(&path, endings, found);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), endings, &mut found);
    found
}

#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 150, "README.md has {lines} lines");
}

/// Documents and comments are read as text, too.
#[test]
fn lines_are_narrow() {
    let documents = files(&[".md"]);
    assert!(documents.len() > 15, "{documents:?}");
    for path in documents {
        for (number, line) in read(&path).lines().enumerate() {
            // A table's row can't be wrapped, nor a link that stands alone.
            let long = !line.starts_with('|') && !line.trim_start().starts_with("![");
            let wide = line.chars().count() > 100 && long;
            assert!(!wide, "{path}:{}: more than 100 columns", number + 1);
        }
    }
    let sources = files(&[".rs", ".wgsl"]);
    assert!(sources.len() > 300, "{} sources", sources.len());
    for path in sources {
        let mut code = false;
        for (number, line) in read(&path).lines().enumerate() {
            let text = line.trim_start();
            code ^= text.trim_start_matches(['/', '!', ' ']).starts_with("```");
            // Nor can what is written out as code, a table or a formula within a comment.
            let marks = ["/// |", "//! |", "//   ", "///    ", "//!    "];
            let prose = !code && text.starts_with("//") && !marks.iter().any(|mark| text.starts_with(mark));
            let wide = line.chars().count() > 100 && prose;
            assert!(!wide, "{path}:{}: a comment of more than 100 columns", number + 1);
        }
    }
}

/// A kernel without a row in the table of kernels is one without an oracle, tests or a bench.
#[test]
fn every_kernel_is_in_the_table() {
    let text = read("ARCHITECTURE.md");
    let (_, table) = text.split_once("| kernel | equation |").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let first = |row: &str| row.trim_start_matches('|').split('|').next().unwrap_or_default().to_owned();
    let listed: String = table.lines().map(first).collect();
    let mut kernels = 0;
    for path in files(&[".wgsl"]) {
        let name = Path::new(&path).file_stem().unwrap().to_str().unwrap();
        let text = read(&path);
        if text.contains(&format!("fn {name}(\n")) && text.contains("@compute") {
            kernels += 1;
            // Long names may be shortened behind the first of their folder.
            let short = name.strip_prefix("word2vec").unwrap_or(name);
            assert!(listed.contains(&format!("{short}`")), "{path} is in no row");
        }
    }
    assert!(kernels >= 18, "{kernels} kernels");
}

/// The address of a heading, as code hosts make it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn links_lead_somewhere() {
    let mut links = 0;
    for path in files(&[".md"]) {
        let text = read(&path);
        let mut folder = root().join(&path).parent().unwrap().to_path_buf();
        // These become a part of lab/RESULTS.md.
        if folder.ends_with("lab/answers") {
            folder.pop();
        }
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.starts_with("http") {
                continue;
            }
            links += 1;
            let (file, place) = target.split_once('#').unwrap_or((target, ""));
            let to = if file.is_empty() { root().join(&path) } else { folder.join(file) };
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
        let repeated: Vec<&String> = [1, 2, 5, 6, 7, 9, 10].iter().map(|&column| &full[column]).collect();
        assert_eq!(short[1..8].iter().collect::<Vec<_>>(), repeated);
    }
    // The same rules in four tables of the lab, of two models at two budgets.
    let results = read("lab/RESULTS.md");
    let ratios = |rule: &str| -> Vec<String> {
        let lines = results.lines().filter(|line| line.starts_with(&format!("| {rule} | ")));
        lines.map(cells).filter(|cells| cells.len() == 9).map(|cells| cells[4].clone()).collect()
    };
    for rule in ["sink + window", "half window, β = ½", "Quest's bound", "saturated"] {
        let line = readme.lines().find(|line| line.starts_with(&format!("| {rule} | ")));
        let short = cells(line.unwrap_or_else(|| panic!("no row of {rule}")));
        let (of_readme, of_lab) = (&short[2..6], ratios(rule));
        assert!(of_lab.len() >= 4 && of_readme == &of_lab[..4], "{rule}: {of_readme:?}, {of_lab:?}");
    }
}
