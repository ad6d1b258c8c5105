//! Sub-word vocabularies judged: trained here and by other programs, each by how well texts that it
//! hasn't seen are encoded.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`stream`] | a text as the ids of some encoder |
//! | [`judge`], [`kneser_ney`] | bytes per token, and bits per byte by simple language models |
//! | [`contenders`], [`compare`] | the vocabularies and encoders that are compared, and one of them measured |
//! | [`peers`] | what other programs encoded |
//! | [`rows`] | the file of results |

pub mod compare;
pub mod contenders;
pub mod judge;
pub mod kneser_ney;
pub mod peers;
pub mod rows;
pub mod stream;
