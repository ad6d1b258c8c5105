//! Searches whose every score is computed, not looked up.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`objective`] | what is searched: a space, and what a point is worth by a seed |
//! | [`values`] | a point in names and values, whatever the space |
//! | [`store`] | scores in a file, none of which is computed twice |
//! | [`course`] | a search by one method and seed, and its winner scored again |
//! | [`rows`] | the file of results |
//! | [`compare`] | searches beside each other, paired by run |
//! | [`finals`], [`agreement`] | what searches found with all of the work done, and whether a part of it orders points alike |
//! | [`word2vec`] | trainings of our own word2vec as an objective |
//! | [`participation`] | sampled attention in a language model as an objective |

pub mod agreement;
pub mod compare;
pub mod course;
pub mod finals;
pub mod objective;
pub mod participation;
pub mod rows;
pub mod store;
#[cfg(test)]
mod tests;
pub mod values;
pub mod word2vec;
