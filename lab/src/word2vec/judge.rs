//! Vectors by the files that `scripts/fetch-models similarity` brings.

use std::path::Path;

use anyhow::{Context as _, Result};
use prflash::word2vec::{
    Analogies, Analogy, Pairs, Questions, Rules, Similarity, WordVectors, analogies, similarity,
};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::gguf::sha256;

/// The files, in the order of [`Judge`]'s.
const FILES: [&str; 3] = ["wordsim353.tsv", "simlex999.txt", "questions-words.txt"];

/// The ratings and questions.
#[derive(Clone, Debug)]
pub struct Judge {
    wordsim: Pairs,
    simlex: Pairs,
    questions: Questions,
}

/// A half of each file, by the library's `halves`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Half {
    /// The half by which to choose settings.
    First,
    /// The half by which to report what was chosen.
    Second,
}

/// What there is to say of a file.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The verdict by WordSim-353.
    pub wordsim: Similarity,
    /// The verdict by SimLex-999.
    pub simlex: Similarity,
    /// The verdict by word2vec's analogies.
    pub analogies: Analogies,
}

impl Judge {
    /// Reads a folder with `wordsim353.tsv`, `simlex999.txt` and `questions-words.txt`.
    ///
    /// # Errors
    /// A file that isn't there or isn't as it must be, by its name.
    pub fn open(folder: &Path) -> Result<Self> {
        let named = FILES.map(|name| folder.join(name));
        let context = |path: &Path| path.display().to_string();
        let pairs = |path: &Path| Pairs::load(path).with_context(|| context(path));
        let [wordsim, simlex, questions] = &named;
        Ok(Self {
            wordsim: pairs(wordsim)?,
            simlex: pairs(simlex)?,
            questions: Questions::load(questions).with_context(|| context(questions))?,
        })
    }

    /// The SHA-256 of each of these files, by its name.
    ///
    /// # Errors
    /// A file that can't be read, by its name.
    pub fn sums(folder: &Path) -> Result<Map<String, Value>> {
        let of = |name: &str| {
            let path = folder.join(name);
            let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
            Ok((name.to_owned(), Value::from(sha256(&bytes))))
        };
        FILES.iter().map(|name| of(name)).collect()
    }

    /// The same with a half of each.
    #[must_use]
    pub fn half(&self, half: Half) -> Self {
        fn of<T>((first, second): (T, T), half: Half) -> T {
            if half == Half::First { first } else { second }
        }
        Self {
            wordsim: of(self.wordsim.halves(), half),
            simlex: of(self.simlex.halves(), half),
            questions: of(self.questions.halves(), half),
        }
    }

    /// Judges vectors by WordSim-353 and SimLex-999 alone, which takes no time.
    pub fn similarities(&self, vectors: &WordVectors, rules: &Rules) -> [Similarity; 2] {
        [&self.wordsim, &self.simlex].map(|pairs| similarity(vectors, pairs, rules))
    }

    /// Judges vectors.
    pub fn judge(&self, vectors: &WordVectors, method: Analogy, rules: &Rules) -> Verdict {
        let [wordsim, simlex] = self.similarities(vectors, rules);
        Verdict { wordsim, simlex, analogies: analogies(vectors, &self.questions, method, rules) }
    }
}

impl Verdict {
    /// As an object of JSON; numbers that aren't defined are null.
    pub fn to_json(&self) -> Value {
        let pairs = |found: &Similarity| json!({ "spearman": found.spearman, "pairs": found.pairs, "covered": found.covered });
        let tally = |tally: &prflash::word2vec::Tally| {
            json!({
                "asked": tally.asked,
                "covered": tally.covered,
                "right": tally.right,
                "accuracy": tally.accuracy(),
                "accuracy_of_covered": tally.accuracy_of_covered(),
            })
        };
        let mut analogies = tally(&self.analogies.total());
        let sections = self.analogies.sections.iter().map(|section| {
            let mut object = tally(&section.tally);
            object["name"] = json!(section.name);
            object
        });
        analogies["sections"] = sections.collect();
        json!({
            "wordsim353": pairs(&self.wordsim),
            "simlex999": pairs(&self.simlex),
            "analogies": analogies,
        })
    }
}

/// The SHA-256 of the words (UTF-8, a line end behind each) and of the numbers (little-endian f32,
/// row by row), in hex, as `scripts/word2vec-peers check` prints them.
pub fn sums(vectors: &WordVectors) -> [String; 2] {
    let (mut words, mut values) = (Sha256::new(), Sha256::new());
    for (word, row) in vectors.iter() {
        words.update(word);
        words.update("\n");
        row.iter().for_each(|value| values.update(value.to_le_bytes()));
    }
    [words, values].map(|sum| sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
