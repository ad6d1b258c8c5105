//! What searches found, with all of the work done, beside settings that nobody searched.

use anyhow::{Result, ensure};
use prflash::search::Value;

use super::objective::Outcome;
use super::rows::Row as Searched;
use super::store::Kept;
use super::values::Values;
use super::word2vec::{BATCH, CAP, Word2vec};

/// The first of the seeds of these trainings, by which nothing was searched.
pub(super) const FIRST_SEED: u64 = 2001;

/// A training of settings by a seed.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Row {
    /// The name of whoever chose the settings.
    pub name: String,
    /// The settings.
    pub values: String,
    /// The best score again by which a method's searches chose them; none of those nobody searched.
    pub chosen_by: Option<f64>,
    /// The seed of the training.
    pub seed: u64,
    /// Whether it failed: it has no scores then.
    pub failed: bool,
    /// Spearman's rank correlation with WordSim-353. By the second halves of the ratings nothing was
    /// chosen.
    pub wordsim: Option<f64>,
    /// The rank correlation with SimLex-999.
    pub simlex: Option<f64>,
    /// The rank correlation with the second half of WordSim-353.
    pub wordsim_second: Option<f64>,
    /// The rank correlation with the second half of SimLex-999.
    pub simlex_second: Option<f64>,
    /// Right answers of all analogies, as a part.
    pub analogies: Option<f64>,
    /// The same for the analogies of the second half.
    pub analogies_second: Option<f64>,
    /// Seconds of the processor.
    pub cpu_seconds: f64,
    /// The git revision of the lab.
    pub revision: String,
}

/// Settings to be trained.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The name of whoever chose them.
    pub name: String,
    /// The settings.
    pub values: Values,
    /// The best score again by which a method's searches chose them, if one did.
    pub chosen_by: Option<f64>,
}

/// The best point of each method over all its searches of a part of the text, by its score again.
///
/// # Errors
/// There are no such searches, or none with a winner that was scored again; a point that can't be
/// read.
pub fn winners(rows: &[Searched], scope: &str) -> Result<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    let here = rows.iter().filter(|row| row.objective == Word2vec::NAME && row.scope == scope);
    for row in here {
        let (Some(point), Some(score)) = (&row.point, row.again_select) else { continue };
        let entry = Entry { name: row.method.clone(), values: Values::parse(point)?, chosen_by: Some(score) };
        match entries.iter_mut().find(|other| other.name == row.method) {
            Some(other) if other.chosen_by >= Some(score) => {}
            Some(other) => *other = entry,
            None => entries.push(entry),
        }
    }
    ensure!(
        !entries.is_empty(),
        "no searches of {scope} with winners scored again; lab search word2vec makes them"
    );
    Ok(entries)
}

/// gensim's defaults, with the batches of the library and with those of searches.
pub fn defaults() -> Vec<Entry> {
    let mut entries = Vec::new();
    for (batches, batch, cap) in [("", 4096, 64), (", batches as in searches", BATCH as i32, CAP as i32)] {
        for architecture in ["skip-gram", "bag-of-words"] {
            let values = [
                ("architecture", Value::from(architecture)),
                ("batch", batch.into()),
                ("cap", cap.into()),
                ("dimension", 100.into()),
                ("epochs", 5.into()),
                ("min_count", 5.into()),
                ("negative", 5.into()),
                ("ns_exponent", 0.75.into()),
                ("rate", 0.025.into()),
                ("sample", 1e-3.into()),
                ("window", 5.into()),
            ];
            let values = values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            entries.push(Entry {
                name: format!("defaults, {architecture}{batches}"),
                values,
                chosen_by: None,
            });
        }
    }
    entries
}

/// The rows of an entry: those of the same settings that are there, and a training by each of so
/// many seeds that has none. `step` hears how many are done, and which part of the next.
///
/// # Errors
/// The errors of [`Kept::score`] and of `step`.
pub fn train(
    kept: &mut Kept<'_>,
    entry: &Entry,
    seeds: u64,
    there: &[Row],
    revision: &str,
    step: &mut dyn FnMut(u64, f64) -> Result<()>,
) -> Result<Vec<Row>> {
    let there: Vec<&Row> =
        there.iter().filter(|row| row.name == entry.name && row.values == entry.values.to_string()).collect();
    let last = there.iter().map(|row| row.seed + 1).max().unwrap_or(0);
    let row = |number: u64| {
        step(number, 0.0)?;
        let seed = FIRST_SEED + number;
        if let Some(row) = there.iter().find(|row| row.seed == seed) {
            return Ok(Row { chosen_by: entry.chosen_by, ..(*row).clone() });
        }
        let outcome = kept.score(&entry.values, seed, &mut |part| step(number, part))?;
        let of = |name: &str| outcome.scored().and_then(|scored| scored.more.get(name)).copied();
        Ok(Row {
            name: entry.name.clone(),
            values: entry.values.to_string(),
            chosen_by: entry.chosen_by,
            seed,
            failed: matches!(outcome, Outcome::Failed { .. }),
            wordsim: of("wordsim"),
            simlex: of("simlex"),
            wordsim_second: of("wordsim_second"),
            simlex_second: of("simlex_second"),
            analogies: of("analogies"),
            analogies_second: of("analogies_second"),
            cpu_seconds: outcome.cpu_seconds(),
            revision: revision.into(),
        })
    };
    // Seeds that were trained before are kept, though fewer are asked for.
    (0..seeds.max(last.saturating_sub(FIRST_SEED))).map(row).collect()
}

/// The rows of entries, then those that were there of other names.
pub fn joined(there: &[Row], entries: &[Entry], new: Vec<Row>) -> Vec<Row> {
    let others = there.iter().filter(|row| entries.iter().all(|entry| entry.name != row.name));
    let others: Vec<Row> = others.cloned().collect();
    new.into_iter().chain(others).collect()
}
