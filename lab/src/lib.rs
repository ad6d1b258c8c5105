//! Real language models on prflash: GGUF files in, text and perplexities out.
//!
//! Embeddings, norms and linear layers run on the CPU (candle); attention, positions and the memory
//! of keys and values are prflash's, on the GPU. The two meet in one trait, [`attend::Attend`], so
//! the same model also runs on prflash's engine on CPU cores, and on plain loops, which both are
//! checked against.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`gguf`], [`config`], [`tokenizer`], [`model`] | a model: file, sizes, text, forward pass |
//! | [`attend`], [`gpu`], [`native`], [`cpu`], [`memory`] | attention: the seam, its three backends, where keys and values live |
//! | [`look`] | what attention that looks at keys knows of them |
//! | [`setting`], [`staircase`] | what attention computes in a run and how it remembers, from the command line to prflash's values |
//! | [`backend`] | a device and a model, opened |
//! | [`generate`], [`perplexity`], [`needle`], [`ages`], [`speed`], [`decode`] | what is measured |
//! | [`content`], [`caches`] | predictions beside dense attention's: blocks chosen by content, caches of few bits |
//! | [`results`], [`table`] | files of results |
//! | [`search`] | methods of search compared on real scores |
//! | [`subword`] | vocabularies of sub-words, judged beside other programs' |
//! | [`train`] | a small decoder trained with prflash's attention, forward and backward |
//! | [`word2vec`] | corpora for vectors of words, trainings, and how good vectors are |
//! | [`study`], [`sweep`], [`report`], [`plots`] | the paper's open questions: what is measured for them, computed, and written down |

pub mod ages;
pub mod attend;
pub mod backend;
pub mod caches;
pub mod choosing;
pub mod config;
pub mod content;
pub mod cpu;
pub mod decode;
pub mod generate;
pub mod gguf;
pub mod gpu;
pub mod look;
pub mod memory;
pub mod model;
pub mod native;
pub mod needle;
pub mod perplexity;
pub mod plots;
pub mod report;
pub mod results;
pub mod search;
pub mod setting;
pub mod speed;
pub mod staircase;
pub mod study;
pub mod subword;
pub mod sweep;
pub mod table;
pub mod tokenizer;
pub mod train;
pub mod word2vec;

/// Somebody asked to stop (Ctrl-C).
#[derive(Clone, Copy, Debug)]
pub struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}
