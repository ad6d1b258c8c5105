//! Analogies completed, all questions at once.
//!
//! A file has few different words in its many questions, so the cosines of all vectors with these
//! words are computed once, in blocks of rows that stay in the caches; a question then takes three
//! numbers of each row.

use std::collections::HashMap;
use std::ops::Range;

use super::lookup::Lookup;
use super::questions::Questions;
use super::rules::Rules;
use crate::word2vec::vectors::{Analogy, EPSILON, WordVectors};

/// Rows of a block.
const ROWS: usize = 64;
/// Rows that are summed at a time, so that their sums stay in registers.
const HALF: usize = ROWS / 2;

type Block = [f32; ROWS];

/// How many questions were asked, and what came of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tally {
    /// Questions in the file.
    pub asked: usize,
    /// Those among them whose four words all have vectors.
    pub covered: usize,
    /// The questions among these that were answered rightly.
    pub right: usize,
}

impl Tally {
    /// The part of all questions that was answered rightly: one with an unknown word is wrong. NaN
    /// of none.
    pub fn accuracy(&self) -> f64 {
        self.right as f64 / self.asked as f64
    }

    /// The part of the covered questions that was answered rightly, as gensim counts. It rewards
    /// vectors of few words (see [`Unknown::Median`](super::Unknown::Median)). NaN of none.
    pub fn accuracy_of_covered(&self) -> f64 {
        self.right as f64 / self.covered as f64
    }
}

/// What came of a section's questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The section's name.
    pub name: String,
    /// What came of the section's questions.
    pub tally: Tally,
}

/// What came of all questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Analogies {
    /// The sections, in the order of the file.
    pub sections: Vec<Section>,
}

impl Analogies {
    /// The sum over all sections.
    pub fn total(&self) -> Tally {
        self.sections.iter().fold(Tally::default(), |sum, Section { tally, .. }| Tally {
            asked: sum.asked + tally.asked,
            covered: sum.covered + tally.covered,
            right: sum.right + tally.right,
        })
    }
}

/// Answers each question with the best of all words but the three that it has.
///
/// Scores are computed in f32; of equal ones the earlier word is taken, on any number of threads.
/// Which pairs are dropped is no matter here: [`Tally`] has both counts.
///
/// ```
/// use prflash::word2vec::{Analogy, Questions, Rules, WordVectors, analogies};
/// let values = vec![1.0, 0.1, 1.0, 0.9, 0.1, 0.1, 0.1, 1.0];
/// let vectors = WordVectors::new(["man", "king", "woman", "queen"], 2, values)?;
/// let questions = Questions::read(": family\nman king woman queen\nman king woman empress\n".as_bytes())?;
/// let total = analogies(&vectors, &questions, Analogy::CosAdd, &Rules::default()).total();
/// assert_eq!((total.asked, total.covered, total.right), (2, 1, 1));
/// assert_eq!((total.accuracy(), total.accuracy_of_covered()), (0.5, 1.0));
/// # Ok::<(), prflash::Error>(())
/// ```
pub fn analogies(vectors: &WordVectors, questions: &Questions, method: Analogy, rules: &Rules) -> Analogies {
    let lookup = Lookup::new(vectors, rules.case);
    let mut sections = Vec::new();
    let mut asked = Asked { same: lookup.same(), words: Vec::new(), questions: Vec::new() };
    let mut places = HashMap::new();
    // The section of each question that is asked, and its answer.
    let mut answers = Vec::new();
    for (section, (name, questions)) in questions.sections().enumerate() {
        let mut tally = Tally { asked: questions.len(), ..Tally::default() };
        for words in questions {
            let [Some(a), Some(b), Some(c), Some(answer)] = words.each_ref().map(|word| lookup.index(word))
            else {
                continue;
            };
            tally.covered += 1;
            let mut place = |word: usize| {
                *places.entry(word).or_insert_with(|| {
                    asked.words.push(word);
                    asked.words.len() - 1
                })
            };
            let question =
                Question { given: [a, b, c].map(|word| word as u32), places: [a, b, c].map(&mut place) };
            asked.questions.push(question);
            answers.push((section, answer as u32));
        }
        sections.push(Section { name: name.into(), tally });
    }
    let best = asked.best(vectors, method, rules.threads.get());
    for ((section, answer), best) in answers.into_iter().zip(best) {
        let right = best.is_some_and(|best| asked.same[best] == answer);
        sections[section].tally.right += usize::from(right);
    }
    Analogies { sections }
}

/// A question by the numbers of its words.
struct Question {
    /// a, b and c.
    given: [u32; 3],
    /// Where they are among the words of all questions.
    places: [usize; 3],
}

/// Everything that is asked of all rows.
struct Asked {
    /// For each word the number of the first that is the same.
    same: Vec<u32>,
    /// The different words of the questions.
    words: Vec<usize>,
    questions: Vec<Question>,
}

/// The best row so far, with its score.
type Best = Option<(f32, usize)>;

impl Asked {
    /// The best row of each question; none where all words are among the three.
    fn best(&self, vectors: &WordVectors, method: Analogy, threads: usize) -> Vec<Option<usize>> {
        if self.questions.is_empty() {
            return Vec::new();
        }
        let threads =
            if cfg!(target_arch = "wasm32") { 1 } else { threads.min(vectors.len().div_ceil(ROWS)) };
        let units: Vec<f32> = self.words.iter().flat_map(|&word| vectors.unit(word)).collect();
        let share = |thread: usize| {
            let bound = |thread: usize| vectors.len() * thread / threads;
            self.best_of(vectors, &units, method, bound(thread)..bound(thread + 1))
        };
        let parts: Vec<Vec<Best>> = if threads < 2 {
            vec![share(0)]
        } else {
            std::thread::scope(|scope| {
                let share = &share;
                let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || share(thread))).collect();
                // A thread that panicked takes the caller with it.
                let join = |thread: std::thread::ScopedJoinHandle<'_, _>| match thread.join() {
                    Ok(part) => part,
                    Err(panic) => std::panic::resume_unwind(panic),
                };
                threads.into_iter().map(join).collect()
            })
        };
        let of_question = |question: usize| {
            // The parts are in the order of the rows: of equal scores the first is taken.
            let found = parts.iter().filter_map(|part| part[question]);
            let best = found.reduce(|best, other| if other.0 > best.0 { other } else { best });
            best.map(|(_, row)| row)
        };
        (0..self.questions.len()).map(of_question).collect()
    }

    /// The best among these rows.
    fn best_of(
        &self,
        vectors: &WordVectors,
        units: &[f32],
        method: Analogy,
        rows: Range<usize>,
    ) -> Vec<Best> {
        let mut best = vec![None; self.questions.len()];
        let mut columns = vec![[0.0; ROWS]; vectors.dimension()];
        let mut cosines = vec![[0.0; ROWS]; self.words.len()];
        for start in rows.clone().step_by(ROWS) {
            let count = ROWS.min(rows.end - start);
            for row in 0..count {
                vectors.unit(start + row).zip(&mut columns).for_each(|(value, column)| column[row] = value);
            }
            for (unit, block) in units.chunks_exact(vectors.dimension()).zip(&mut cosines) {
                *block = products(&columns, unit);
                if method == Analogy::CosMul {
                    block.iter_mut().for_each(|cosine| *cosine = (1.0 + *cosine) / 2.0);
                }
            }
            for (question, best) in self.questions.iter().zip(&mut best) {
                let scores = scores(method, question.places.map(|place| &cosines[place]));
                // Rows behind the last are of the block before, or 0: they may be looked at in
                // vain.
                if best.is_none_or(|(score, _)| maximum(&scores) > score) {
                    self.look(question, &scores[..count], start, best);
                }
            }
        }
        best
    }

    /// Takes each row of a block that is better than the best and none of the question's words.
    fn look(&self, question: &Question, scores: &[f32], start: usize, best: &mut Best) {
        for (row, &score) in (start..).zip(scores) {
            let better = best.is_none_or(|(best, _)| score > best);
            if better && !question.given.contains(&self.same[row]) {
                *best = Some((score, row));
            }
        }
    }
}

/// The inner products of the rows of a block, given by column, with a vector.
fn products(columns: &[Block], vector: &[f32]) -> Block {
    let mut products = [0.0; ROWS];
    for half in 0..2 {
        let mut sums = [0.0f32; HALF];
        for (column, value) in columns.iter().zip(vector) {
            for lane in 0..HALF {
                sums[lane] += column[half * HALF + lane] * value;
            }
        }
        products[half * HALF..][..HALF].copy_from_slice(&sums);
    }
    products
}

/// The scores of a block's rows from their cosines with a, b and c; those of [`Analogy::CosMul`]
/// are moved to [0, 1] already.
fn scores(method: Analogy, [a, b, c]: [&Block; 3]) -> Block {
    let mut scores = [0.0; ROWS];
    match method {
        Analogy::CosAdd => (0..ROWS).for_each(|row| scores[row] = b[row] - a[row] + c[row]),
        Analogy::CosMul => {
            (0..ROWS).for_each(|row| scores[row] = b[row] * c[row] / (a[row] + EPSILON as f32));
        }
    }
    scores
}

/// The largest of numbers that are all finite.
fn maximum(scores: &Block) -> f32 {
    let mut largest = [f32::MIN; 8];
    for eight in scores.as_chunks::<8>().0 {
        for (largest, &score) in largest.iter_mut().zip(eight) {
            *largest = if score > *largest { score } else { *largest };
        }
    }
    largest.into_iter().fold(f32::MIN, f32::max)
}
