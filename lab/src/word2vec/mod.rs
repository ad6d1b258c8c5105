//! What vectors of words are trained on, and how good they are.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`text`] | texts as words in small letters, a sentence a line |
//! | [`part`] | a part of a text that has something of all of it |
//! | [`training`] | trainings in folders, left off and gone on with |
//! | [`judge`] | a file of vectors by ratings of pairs and by analogies |
//! | [`trained`], [`rows`] | trainings of ours and of others in one file of results |

pub mod judge;
pub mod part;
pub mod rows;
pub mod text;
pub mod trained;
pub mod training;
