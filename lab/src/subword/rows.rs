//! The file of results: a row for each encoder, vocabulary and pair of texts.

use super::judge::Verdict;
use crate::table;

/// What was measured of one encoder.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Row {
    /// The name of the pair of texts.
    pub texts: String,
    /// SHA-256 of the text that was trained on.
    pub train_sha256: String,
    /// SHA-256 of the text that was held out.
    pub held_out_sha256: String,
    /// The bytes of the text that was trained on.
    pub train_bytes: usize,
    /// The bytes of the text that was held out.
    pub held_out_bytes: usize,
    /// Pieces asked for.
    pub size: usize,
    /// The name of the encoder.
    pub encoder: String,
    /// The program with its version.
    pub program: String,
    /// Bytes of the held-out text by its tokens.
    pub bytes_per_token: f64,
    /// See [`Verdict::unigram_bits`].
    pub unigram_bits: f64,
    /// See [`Verdict::five_gram_bits`].
    pub five_gram_bits: f64,
    /// See [`Verdict::renyi_efficiency`].
    pub renyi_efficiency: f64,
    /// See [`Verdict::used`].
    pub used: f64,
    /// Seconds of the processor that training took on one thread, with cutting into words.
    pub train_cpu_seconds: Option<f64>,
    /// 10⁶ bytes of both texts that one thread encodes in a second, the best of three passes.
    pub encode_mb_per_s: f64,
    /// Whether both texts come back from their ids.
    pub lossless: bool,
    /// The git revision of the lab.
    pub revision: String,
}

impl Row {
    /// What the judges say.
    pub fn verdict(&self) -> Verdict {
        Verdict {
            bytes_per_token: self.bytes_per_token,
            unigram_bits: self.unigram_bits,
            five_gram_bits: self.five_gram_bits,
            renyi_efficiency: self.renyi_efficiency,
            used: self.used,
        }
    }
}

impl table::Row for Row {
    fn same(&self, other: &Self) -> bool {
        let key = |row: &Self| (row.texts.clone(), row.size, row.encoder.clone());
        key(self) == key(other)
    }
}

/// The rows of a file.
pub type Rows = table::Table<Row>;
