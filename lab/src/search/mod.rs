//! Methods of search compared on real scores.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`table`] | scores of trainings, as `scripts/search-tables` writes them |
//! | [`surrogate`] | a score for every point of a space, between those of a table |
//! | [`contenders`], [`replay`] | the methods, and a search of a surrogate by one |
//! | [`real`] | searches whose every score is computed |
//! | [`peers`] | another program's searches of the same surrogate |
//! | [`rows`] | the file of results |
//! | [`statistics`] | means with their errors, rank correlation |

pub mod contenders;
pub mod peers;
pub mod real;
pub mod replay;
pub mod rows;
pub mod statistics;
pub mod surrogate;
pub mod table;
