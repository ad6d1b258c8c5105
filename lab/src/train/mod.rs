//! A small decoder trained from nothing, with prflash's attention forward and backward.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`settings`] | sizes of the model, and how it is trained |
//! | [`data`] | texts as tokens of a vocabulary that is trained on them, and batches |
//! | [`attention`] | attention with gradients: prflash's on cores or on a device, or candle's own |
//! | [`decoder`], [`loss`] | the model, whose other parts are candle's, and what it predicts |
//! | [`optimizer`] | AdamW |
//! | [`course`], [`checkpoint`] | a training step by step, left off and resumed to the bit |
//! | [`folder`] | a training in a folder, and what is told of it |
//! | [`compare`] | the same steps by each kind of attention |
//! | [`rows`] | the file of results |

pub mod attention;
pub mod checkpoint;
pub mod compare;
pub mod course;
pub mod data;
pub mod decoder;
pub mod folder;
pub mod loss;
pub mod optimizer;
pub mod rows;
pub mod settings;

#[cfg(test)]
mod tests;
