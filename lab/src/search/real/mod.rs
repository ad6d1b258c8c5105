//! Searches whose every score is computed, not looked up.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`objective`] | what is searched: a space, and what a point is worth by a seed |
//! | [`values`] | a point in names and values, whatever the space |
//! | [`store`] | scores in a file, none of which is computed twice |
//! | [`course`] | a search by one method and seed, and its winner scored again |
//! | [`rows`] | the file of results |
//! | [`word2vec`] | trainings of our own word2vec as an objective |

pub mod course;
pub mod objective;
pub mod rows;
pub mod store;
pub mod values;
pub mod word2vec;
