//! Small decoders trained here, beside models that count.

use anyhow::Result;

use super::page::Page;
use crate::train::rows::Row;

/// Writes the part, unless nothing was trained.
pub fn train(rows: &[Row], page: &mut Page<'_>) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    page.answer("train", "A small decoder, trained here")?;
    page.numbers("results/train.csv", "`lab train --quick --results lab/results/train.csv`.");
    let line = |row: &Row| {
        vec![
            format!("{}, judged by {}", row.backend, row.held_out),
            format!("{:.2}", row.parameters as f64 / 1e6),
            row.pieces.to_string(),
            format!("{:.2}", row.tokens as f64 / 1e6),
            format!("{:.2}", row.train_tokens as f64 / 1e6),
            format!("{:.4}", row.bits_per_byte),
            format!("{:.4}", row.trigram_bits),
            format!("{:.4}", row.five_gram_bits),
            format!("{:.0}", row.tokens_per_s),
            format!("{:.0}", row.seconds),
        ]
    };
    let header = [
        "attention by",
        "10⁶ weights",
        "pieces",
        "10⁶ tokens read",
        "of a text of",
        "bits per byte",
        "trigram",
        "5-gram",
        "tokens/s",
        "seconds in all",
    ];
    page.table(&header, &rows.iter().map(line).collect::<Vec<_>>());
    page.text(
        "*Trigram* and *5-gram* are interpolated Kneser-Ney models, counted on all tokens of the text that the \
         decoder was trained on, and judged on the same held-out tokens. *Tokens/s* are of training alone, \
         forward and backward, *seconds* of everything, with the vocabulary and the judging.",
    );
    Ok(())
}
