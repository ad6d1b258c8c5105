//! What a report is written from.

use anyhow::Result;

use super::Paths;
use crate::ages::AgeError;
use crate::needle::Found;
use crate::results::{InWindow, Results, Row, Source};
use crate::search::real;
use crate::speed::Timed;
use crate::study::Question;
use crate::subword::rows::Rows;
use crate::table;

/// What the files of results hold.
pub struct Data {
    pub sampling: Vec<Row<InWindow>>,
    pub speed: Vec<Row<Timed>>,
    pub decode: Vec<Row<Timed>>,
    pub staircase: Vec<Row<InWindow>>,
    pub positions: Vec<Row<InWindow>>,
    pub needle: Vec<Row<Found>>,
    pub ages: Vec<Row<AgeError>>,
    pub caches: Vec<crate::caches::rows::Row>,
    pub content: Vec<crate::content::compare::Row>,
    pub content_prefill: Vec<Row<InWindow>>,
    pub passkeys: Vec<crate::content::passkeys::Row>,
    pub subword: Vec<crate::subword::rows::Row>,
    pub search: Vec<crate::search::rows::Row>,
    pub search_runs: Vec<real::rows::Row>,
    pub search_finals: Vec<real::finals::Row>,
    pub search_tau: Vec<real::agreement::Row>,
    pub word2vec: Vec<crate::word2vec::rows::Row>,
    pub train: Vec<crate::train::rows::Row>,
}

impl Data {
    pub fn read(paths: &Paths) -> Result<Self> {
        let path = |question: Question| paths.results.join(format!("{}.csv", question.name()));
        Ok(Self {
            sampling: Results::read(&path(Question::Sampling))?,
            speed: Results::read(&path(Question::Speed))?,
            decode: Results::read(&path(Question::Decode))?,
            staircase: Results::read(&path(Question::Staircase))?,
            positions: Results::read(&path(Question::Positions))?,
            needle: Results::read(&path(Question::Needle))?,
            ages: Results::read(&path(Question::Ages))?,
            caches: table::read(&paths.results.join("caches.csv"))?,
            content: table::read(&paths.results.join("content.csv"))?,
            content_prefill: Results::read(&paths.results.join("content-prefill.csv"))?,
            passkeys: table::read(&paths.results.join("passkeys.csv"))?,
            subword: Rows::open(&paths.results.join("subword.csv"))?.into(),
            search: table::read(&paths.results.join("search.csv"))?,
            search_runs: table::read(&paths.results.join("search-runs.csv"))?,
            search_finals: table::read(&paths.results.join("search-finals.csv"))?,
            search_tau: table::read(&paths.results.join("search-tau.csv"))?,
            word2vec: crate::word2vec::rows::Rows::open(&paths.results.join("word2vec.csv"))?.into(),
            train: table::read(&paths.results.join("train.csv"))?,
        })
    }

    /// What each row says of where it comes from.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        fn of<M>(rows: &[Row<M>]) -> impl Iterator<Item = &Source> {
            rows.iter().map(|row| &row.source)
        }
        let by_window = of(&self.sampling).chain(of(&self.staircase)).chain(of(&self.positions));
        by_window.chain(of(&self.needle)).chain(of(&self.ages)).chain(of(&self.speed)).chain(of(&self.decode))
    }
}
