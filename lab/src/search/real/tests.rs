//! Searches of a made objective: interruptions, failures, pairs.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use prflash::search::{Parameter, Space};

use super::agreement;
use super::compare::{Mark, Searches, over};
use super::course::{Course, Wanted};
use super::finals::{self, FIRST_SEED, winners};
use super::objective::{AGAIN, Objective, Outcome, Scored};
use super::rows::{Row, check, put, rows};
use super::store::{Counts, Kept};
use super::values::Values;
use crate::search::contenders::Contender;

const METHODS: [Contender; 3] = [Contender::Random, Contender::Tree, Contender::Tpe];
const WANTED: Wanted = Wanted { trials: 14, again: 2 };

/// Good where a and b go together, with a little of the seed; fails where kind is none.
struct Made {
    space: Space,
    device: String,
    /// Scores until it stops.
    left: u64,
}

impl Made {
    fn new() -> Self {
        let space = Space::new([
            Parameter::ordinal("a", [1, 2, 3, 4]).unwrap(),
            Parameter::ordinal("b", [1, 2, 3, 4]).unwrap(),
            Parameter::nominal("kind", ["plain", "squared", "none"]).unwrap(),
        ]);
        Self { space: space.unwrap(), device: "one".into(), left: u64::MAX }
    }
}

impl Objective for Made {
    fn name(&self) -> &str {
        "word2vec"
    }

    fn scope(&self) -> &str {
        "part 8"
    }

    fn space(&self) -> &Space {
        &self.space
    }

    fn identity(&self) -> serde_json::Value {
        "made".into()
    }

    fn device(&mut self, _step: &mut dyn FnMut(f64) -> Result<()>) -> Result<String> {
        Ok(self.device.clone())
    }

    fn score(
        &mut self,
        values: &Values,
        seed: u64,
        step: &mut dyn FnMut(f64) -> Result<()>,
    ) -> Result<Outcome> {
        step(0.5)?;
        if self.left == 0 {
            bail!("stopped");
        }
        self.left -= 1;
        let (a, b) = (values.number("a")?, values.number("b")?);
        if values.text("kind")? == "none" {
            return Ok(Outcome::Failed { reason: "there is none".into(), cpu_seconds: 0.25 });
        }
        let squared = values.text("kind")? == "squared";
        let select = if squared { a * b } else { -(a - b).abs() } + (seed % 7) as f64 * 0.01;
        let report = (seed >= AGAIN).then_some(select - 1.0);
        Ok(Outcome::Scored(Scored { select, report, cpu_seconds: a, more: BTreeMap::new() }))
    }
}

/// All searches of two runs, and how many scores were computed and found.
fn searched(folder: &Path, made: &mut Made) -> Result<(Vec<Row>, Counts)> {
    let mut kept = Kept::open(folder, made, "abc")?;
    let mut all = Vec::new();
    for run in 0..2 {
        for method in METHODS {
            let course = Course::run(&mut kept, method, run, WANTED, &mut |_| Ok(()))?;
            all.extend(rows("word2vec", "part 8", "abc", &course));
        }
    }
    Ok((all, kept.counts()))
}

#[test]
fn whatever_stops_them_searches_end_as_without_it() {
    let whole = tempfile::tempdir().unwrap();
    let (want, counts) = searched(whole.path(), &mut Made::new()).unwrap();
    assert_eq!(want.len(), 2 * METHODS.len() * WANTED.trials);
    let scores = std::fs::read(whole.path().join("scores.jsonl")).unwrap();
    assert_eq!(scores.iter().filter(|&&byte| byte == b'\n').count() as u64, counts.computed);
    // Methods begin with the same points, which are computed once.
    assert!(counts.found > 20 && counts.computed + counts.found == 2 * 3 * 16, "{counts:?}");

    let folder = tempfile::tempdir().unwrap();
    let mut stops = 0;
    let found = loop {
        let mut made = Made { left: 5, ..Made::new() };
        match searched(folder.path(), &mut made) {
            Ok((rows, _)) => break rows,
            Err(error) => assert_eq!(error.root_cause().to_string(), "stopped"),
        }
        stops += 1;
    };
    assert_eq!((found, stops), (want.clone(), counts.computed.div_ceil(5) - 1));
    assert_eq!(std::fs::read(folder.path().join("scores.jsonl")).unwrap(), scores);

    // A last line that is torn is computed again.
    std::fs::write(folder.path().join("scores.jsonl"), &scores[..scores.len() - 9]).unwrap();
    let (found, again) = searched(folder.path(), &mut Made::new()).unwrap();
    assert_eq!((found, again.computed), (want, 1));
    assert_eq!(std::fs::read(folder.path().join("scores.jsonl")).unwrap(), scores);
}

#[test]
fn scores_of_something_else_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |made: &mut Made| format!("{:#}", searched(folder.path(), made).unwrap_err());
    searched(folder.path(), &mut Made { left: 3, ..Made::new() }).unwrap_err();
    let error = refused(&mut Made { device: "two".into(), ..Made::new() });
    assert!(
        error.ends_with("scores.jsonl: its scores are of one, not of two; give another folder"),
        "{error}"
    );
    let path = folder.path().join("scores.jsonl");
    let scores = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, scores.replacen("\"seed\"", "\"sead\"", 1)).unwrap();
    let error = refused(&mut Made::new());
    assert!(error.contains("scores.jsonl, line 1: missing field `seed`"), "{error}");
    let path = folder.path().join("store.json");
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap().replace("made", "other")).unwrap();
    let error = refused(&mut Made::new());
    assert!(error.contains("store.json: the scores there are of ") && error.contains("\"other\""), "{error}");
}

#[test]
fn failures_are_told_and_charged() {
    let folder = tempfile::tempdir().unwrap();
    let (all, _) = searched(folder.path(), &mut Made::new()).unwrap();
    let last: Vec<&Row> = all.iter().filter(|row| row.trials == WANTED.trials).collect();
    assert_eq!(last.len(), 2 * METHODS.len());
    for row in last {
        assert!(row.failed > 0 && row.best.is_some_and(|best| best > 0.0), "{row:?}");
        assert_eq!((row.again, row.best_report), (Some(2), None));
        let (select, report) = (row.again_select.unwrap(), row.again_report.unwrap());
        assert!((select - report - 1.0).abs() < 1e-12 && row.cpu_seconds > 14.0, "{row:?}");
    }
    let mut before = all.iter().filter(|row| row.trials < WANTED.trials);
    assert!(before.all(|row| row.point.is_none() && row.again_select.is_none()));

    // Where all fail there is no winner.
    let mut made = Made::new();
    made.space = Space::new([
        Parameter::ordinal("a", [1, 2]).unwrap(),
        Parameter::ordinal("b", [1]).unwrap(),
        Parameter::nominal("kind", ["none"]).unwrap(),
    ])
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut kept = Kept::open(folder.path(), &mut made, "abc").unwrap();
    let course = Course::run(&mut kept, Contender::Random, 0, WANTED, &mut |_| Ok(())).unwrap();
    // The space has two points.
    let found = rows("word2vec", "part 8", "abc", &course);
    assert_eq!((found.len(), course.winner), (2, None));
    assert_eq!((found[1].failed, found[1].best, found[1].cpu_seconds), (2, None, 0.5));
    let error = winners(&found, "part 8").unwrap_err().to_string();
    assert!(error.starts_with("no searches of part 8 with winners"), "{error}");
}

/// Random numbers are common: in a run a point has one score, whatever the method.
#[test]
fn runs_are_paired() {
    let folder = tempfile::tempdir().unwrap();
    let (all, _) = searched(folder.path(), &mut Made::new()).unwrap();
    let searches = Searches::all(&all);
    let [random, tree, _] = &searches[0].methods[..] else { panic!("expected three methods") };
    let best = |row: &Row| row.best;
    // Both draw the first trials evenly by the seed of the run.
    let early = |method: &super::compare::Method<'_>| searches[0].values(method, Mark::Trials(8), best);
    assert_eq!(over(&early(tree), &early(random)), Some((0.0, Some(0.0))));

    let path = folder.path().join("rows.csv");
    put(&path, &all).unwrap();
    let fewer: Vec<Row> = all.iter().filter(|row| row.method == "TPE" && row.run == 0).cloned().collect();
    put(&path, &fewer).unwrap();
    let read: Vec<Row> = crate::table::read(&path).unwrap();
    // The rows of the other run stay.
    assert_eq!(read.len(), all.len());
    assert_eq!(read[read.len() - fewer.len()..], fewer);
    let renewed = |wanted, runs| check(&path, ["word2vec", "part 8", "TPE"], runs, wanted);
    renewed(WANTED, 2).unwrap();
    renewed(WANTED, 3).unwrap();
    let fewer_trials = Wanted { trials: WANTED.trials - 1, ..WANTED };
    let not_again = Wanted { again: 0, ..WANTED };
    for (wanted, runs, what) in
        [(WANTED, 1, "2 runs"), (fewer_trials, 2, "14 trials a run"), (not_again, 2, "2 scores again")]
    {
        let error = renewed(wanted, runs).unwrap_err().to_string();
        assert!(
            error.contains(&format!("it has {what} of TPE (word2vec, part 8), and would have")),
            "{error}"
        );
    }
    check(&path, ["word2vec", "part 4", "TPE"], 1, not_again).unwrap();
    check(&path, ["word2vec", "part 8", "grid"], 1, not_again).unwrap();

    let entries = winners(&all, "part 8").unwrap();
    assert_eq!(
        entries.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(),
        METHODS.map(Contender::name)
    );
    for entry in entries {
        let of_method = all.iter().filter(|row| row.method == entry.name);
        let most = of_method.filter_map(|row| row.again_select).fold(f64::MIN, f64::max);
        assert_eq!(entry.chosen_by, Some(most));
        assert!(entry.values.point(&Made::new().space).is_ok());
    }
}

/// Rows of the file whose name, settings and seeds are wanted again stay as they are.
#[test]
fn only_what_is_new_is_trained_in_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let (all, _) = searched(folder.path(), &mut Made::new()).unwrap();
    let mut entries = winners(&all, "part 8").unwrap();
    let train = |entries: &[finals::Entry], seeds: u64, there: &[finals::Row]| {
        let (folder, mut made) = (tempfile::tempdir().unwrap(), Made::new());
        let mut kept = Kept::open(folder.path(), &mut made, "abc").unwrap();
        let mut rows = Vec::new();
        for entry in entries {
            rows.extend(finals::train(&mut kept, entry, seeds, there, "abc", &mut |_, _| Ok(())).unwrap());
        }
        let counts = kept.counts();
        (finals::joined(there, entries, rows), counts.computed + counts.found)
    };
    let (first, scores) = train(&entries, 2, &[]);
    assert_eq!((first.len(), scores), (6, 6));
    assert_eq!(train(&entries, 2, &first), (first.clone(), 0));
    // One more seed is one more training each; fewer take nothing away.
    let (more, scores) = train(&entries, 3, &first);
    assert_eq!((more.len(), scores), (9, 3));
    assert!(more.iter().any(|row| row.seed == FIRST_SEED + 2));
    assert_eq!(train(&entries, 1, &more), (more.clone(), 0));
    // Nor do other names; a new winner replaces the old one of its name.
    assert_eq!(train(&entries[..1], 3, &more), (more.clone(), 0));
    entries[1].values = Values::parse("a = 1, b = 3, kind = plain").unwrap();
    let (renewed, scores) = train(&entries, 3, &more);
    assert_eq!((renewed.len(), scores), (9, 3));
    assert_eq!((&renewed[..3], &renewed[6..]), (&more[..3], &more[6..]));
    assert!(renewed[3..6].iter().all(|row| row.values == "a = 1, b = 3, kind = plain"));
}

#[test]
fn agreement_has_a_row_for_each_point() {
    let folder = tempfile::tempdir().unwrap();
    let mut made = Made::new();
    let points = agreement::points(&made.space, 6, 1).unwrap();
    let mut kept = Kept::open(folder.path(), &mut made, "abc").unwrap();
    let mut steps = Vec::new();
    let scores = agreement::SEEDS.map(|seed| {
        agreement::scores(&mut kept, &points, seed, &mut |number, part| {
            steps.push((number, part));
            Ok(())
        })
        .unwrap()
    });
    assert_eq!((steps.len(), steps[3]), (2 * 2 * 6, (1, 0.5)));
    let rows =
        agreement::rows(kept.objective(), "part 1", &points, [&scores[0], &scores[1], &scores[0]], "abc");
    let each: Vec<&agreement::Row> = rows.iter().collect();
    for row in &each {
        assert_eq!((row.first.is_none(), row.first), (row.point.contains("none"), row.all));
    }
    let path = folder.path().join("tau.csv");
    crate::table::write(&path, &rows).unwrap();
    agreement::check(&path, 6).unwrap();
    let error = agreement::check(&path, 5).unwrap_err().to_string();
    assert!(error.contains("it has 6 points"), "{error}");
    // A seed adds the same to all.
    let found = agreement::correlation(&each, |row| row.first, |row| row.second);
    assert!((found.tau - 1.0).abs() < 1e-12, "{found:?}");
}
