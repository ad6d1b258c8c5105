//! How good an encoding is, as far as simple models can say.
//!
//! Encodings of different vocabularies are comparable by bits per *byte*, not by perplexity per
//! token: a token of one is more text than a token of the other.

use super::kneser_ney::KneserNey;
use super::stream::Streams;

/// The order of the Rényi entropy, that of Zouhar et al. (2023), "Tokenization and the Noiseless
/// Channel".
pub const ALPHA: f64 = 2.5;

/// What the judges say of an encoding.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Verdict {
    /// Bytes of the held-out text by its tokens.
    pub bytes_per_token: f64,
    /// Bits per byte of the held-out text by a unigram model of the trained text's tokens, half a
    /// time more each.
    pub unigram_bits: f64,
    /// Bits per byte of the held-out text by a Kneser-Ney model of five tokens.
    pub five_gram_bits: f64,
    /// Rényi efficiency of the trained text's tokens, of order [`ALPHA`]. It decides nothing: it
    /// can rise while models get worse.
    pub renyi_efficiency: f64,
    /// Pieces that the trained text has, by all pieces.
    pub used: f64,
}

/// Judges an encoding.
pub fn judge(streams: &Streams) -> Verdict {
    let bytes = streams.held_out_bytes as f64;
    Verdict {
        bytes_per_token: bytes / streams.held_out.len() as f64,
        unigram_bits: unigram(streams) / bytes,
        five_gram_bits: KneserNey::new(&streams.train, streams.pieces).bits(&streams.held_out) / bytes,
        renyi_efficiency: renyi(&Streams::counts(&streams.train, streams.pieces)),
        used: streams.used() as f64 / streams.pieces as f64,
    }
}

/// Bits of the held-out text.
fn unigram(streams: &Streams) -> f64 {
    let counts = |ids| Streams::counts(ids, streams.pieces);
    let (seen, unseen) = (counts(&streams.train), counts(&streams.held_out));
    let total = streams.train.len() as f64 + 0.5 * streams.pieces as f64;
    let bits = |(seen, unseen): (u64, u64)| -((seen as f64 + 0.5) / total).log2() * unseen as f64;
    seen.into_iter().zip(unseen).map(bits).sum()
}

/// `H_α / ln |V|` with `H_α = ln(Σ p^α) / (1 − α)`.
fn renyi(counts: &[u64]) -> f64 {
    let total: u64 = counts.iter().sum();
    let sum: f64 = counts.iter().map(|&count| (count as f64 / total as f64).powf(ALPHA)).sum();
    sum.ln() / (1.0 - ALPHA) / (counts.len() as f64).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas() {
        let streams = Streams::new(4, vec![0, 0, 1, 2], vec![0, 3], 8).unwrap();
        let verdict = judge(&streams);
        assert_eq!(verdict.bytes_per_token, 4.0);
        let want = -((2.5f64 / 6.0).log2() + (0.5f64 / 6.0).log2()) / 8.0;
        assert!((verdict.unigram_bits - want).abs() < 1e-12);
        let sum = 0.5f64.powf(2.5) + 2.0 * 0.25f64.powf(2.5);
        assert!((verdict.renyi_efficiency - sum.ln() / -1.5 / 4f64.ln()).abs() < 1e-12);
        assert_eq!(verdict.used, 0.75);
        // Where all are as frequent there is nothing to gain.
        assert!((renyi(&[5; 64]) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn ids_that_no_piece_has_are_refused() {
        let error = Streams::new(4, vec![0], vec![1, 4], 8).unwrap_err();
        assert_eq!(error.to_string(), "held-out: id 4 at 1, expected ids below 4");
        assert!(Streams::new(4, vec![], vec![1], 8).is_err());
    }
}
