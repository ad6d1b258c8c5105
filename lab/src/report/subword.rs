//! Vocabularies of sub-words, ours and others', on texts that they haven't seen.

use std::collections::BTreeSet;

use anyhow::Result;
use testkit::chart::{Panel, Point, Series};

use super::page::Page;
use super::{even, powers};
use crate::subword::contenders::Contender;
use crate::subword::rows::Row;

/// What others are measured by.
const BASELINE: &str = "hf-bpe";
/// The encoders of the picture, of which most others are kin.
const SHOWN: [&str; 6] =
    ["hf-bpe", "hf-unigram", "sentencepiece", "SWE, λ = 0", "SWE, λ = 2", "SWE, λ = 2, 2 rounds"];

/// A number of a row.
type Measure = fn(&Row) -> f64;

/// Writes the part, unless nothing was measured.
pub fn subword(rows: &[Row], page: &mut Page<'_>) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    page.answer("subword", "Sub-word encoding: SWE and eBPE")?;
    page.numbers("results/subword.csv", "`lab subword compare`.");
    let texts = in_order(rows.iter().map(|row| row.texts.as_str()));
    pictures(rows, &texts, page)?;
    for name in &texts {
        let here: Vec<&Row> = rows.iter().filter(|row| row.texts == *name).collect();
        let Some(first) = here.first() else { continue };
        let megabytes = |bytes: usize| bytes as f64 / 1e6;
        let (train, held_out) = (megabytes(first.train_bytes), megabytes(first.held_out_bytes));
        page.line(&format!("### {name}: {train:.1} MB to train on, {held_out:.1} MB to judge by\n"));
        table(&here, page);
    }
    page.text(
        "*Training* is seconds of the processor on one thread, with those of cutting into words. *MB/s* is \
         how many 10⁶ bytes of text one thread encodes in a second, by the best of three passes over both \
         texts in documents of 64 KiB. Both are rough, as programs ran one after the other and not in turn. \
         *Rényi* is the efficiency of order 2.5, and decides nothing. *Lossless* says whether both texts come \
         back from their ids.",
    );
    Ok(())
}

/// A line an encoder, with a number for each size.
fn table(rows: &[&Row], page: &mut Page<'_>) {
    let sizes: Vec<usize> = rows.iter().map(|row| row.size).collect::<BTreeSet<_>>().into_iter().collect();
    let titles = sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(" / ");
    // Ours first, in their order, whenever they were measured.
    let ours: Vec<String> = Contender::all().iter().map(Contender::to_string).collect();
    let ours = ours.iter().map(String::as_str).filter(|name| rows.iter().any(|row| row.encoder == *name));
    let encoders = in_order(ours.chain(rows.iter().map(|row| row.encoder.as_str())));
    let line = |encoder: &&str| {
        let of = |size: usize| rows.iter().find(|row| row.encoder == *encoder && row.size == size);
        let each = |number: &dyn Fn(&Row) -> String| {
            let cell = |&size: &usize| of(size).map_or("–".to_owned(), |row| number(row));
            sizes.iter().map(cell).collect::<Vec<_>>().join(" / ")
        };
        let any = |&size: &usize| of(size);
        let lossless = sizes.iter().filter_map(any).all(|row| row.lossless);
        vec![
            (*encoder).to_owned(),
            each(&|row| format!("{:.3}", row.bytes_per_token)),
            each(&|row| format!("{:.3}", row.unigram_bits)),
            each(&|row| format!("{:.3}", row.five_gram_bits)),
            each(&|row| format!("{:.3}", row.renyi_efficiency)),
            each(&|row| row.train_cpu_seconds.map_or("–".to_owned(), |seconds| format!("{seconds:.1}"))),
            each(&|row| format!("{:.1}", row.encode_mb_per_s)),
            if lossless { "yes" } else { "no" }.to_owned(),
        ]
    };
    let lines: Vec<Vec<String>> = encoders.iter().map(line).collect();
    page.text(&format!("Each cell has the numbers at {titles} pieces:"));
    let header = [
        "encoder",
        "bytes per token",
        "unigram bits per byte",
        "5-gram bits per byte",
        "Rényi",
        "training, s",
        "MB/s",
        "lossless",
    ];
    page.table(&header, &lines);
    against_baseline(rows, &encoders, &sizes, page);
}

/// What divides each encoder from BPE, as ratios.
fn against_baseline(rows: &[&Row], encoders: &[&str], sizes: &[usize], page: &mut Page<'_>) {
    let find =
        |encoder: &str, size: usize| rows.iter().find(|row| row.encoder == encoder && row.size == size);
    let ratio = |encoder: &str, measure: Measure| {
        let cell = |&size: &usize| match (find(encoder, size), find(BASELINE, size)) {
            (Some(row), Some(base)) => format!("{:.4}", measure(row) / measure(base)),
            _ => "–".to_owned(),
        };
        sizes.iter().map(cell).collect::<Vec<_>>().join(" / ")
    };
    if !encoders.contains(&BASELINE) {
        return;
    }
    let measures: [Measure; 3] =
        [|row| row.bytes_per_token, |row| row.unigram_bits, |row| row.five_gram_bits];
    let line = |encoder: &&str| {
        let ratios = measures.iter().map(|&measure| ratio(encoder, measure));
        std::iter::once((*encoder).to_owned()).chain(ratios).collect()
    };
    let lines: Vec<Vec<String>> = encoders.iter().filter(|&&encoder| encoder != BASELINE).map(line).collect();
    page.text(&format!("These are the same numbers over those of `{BASELINE}`:"));
    page.table(&["encoder", "bytes per token", "unigram bits per byte", "5-gram bits per byte"], &lines);
}

/// Bytes per token and bits per byte against the number of pieces.
fn pictures(rows: &[Row], texts: &[&str], page: &mut Page<'_>) -> Result<()> {
    let measures: [(&str, &str, Measure); 3] = [
        ("subword_bytes", "bytes per token", |row| row.bytes_per_token),
        ("subword_unigram", "bits per byte by a unigram model", |row| row.unigram_bits),
        ("subword_five_gram", "bits per byte by a 5-gram model", |row| row.five_gram_bits),
    ];
    for (name, title, measure) in measures {
        let panel = |text: &&str| {
            let series = |encoder: &&str| {
                let mine = rows.iter().filter(|row| row.texts == *text && row.encoder == *encoder);
                let mut points: Vec<Point> =
                    mine.map(|row| Point { x: row.size as f64, y: measure(row), error: 0.0 }).collect();
                points.sort_by(|a, b| a.x.total_cmp(&b.x));
                Series { name: (*encoder).to_owned(), points, joined: true }
            };
            let series = SHOWN.iter().map(series).filter(|series| !series.points.is_empty());
            Panel { title: (*text).to_owned(), series: series.collect() }
        };
        let panels: Vec<Panel> = texts.iter().map(panel).collect();
        let axes = [powers(2.0, "pieces"), even(title)];
        page.picture(name, &format!("Held-out texts: {title}"), axes, &panels)?;
    }
    Ok(())
}

/// Each once, in the order in which they come.
fn in_order<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut all = Vec::new();
    names.for_each(|name| {
        if !all.contains(&name) {
            all.push(name);
        }
    });
    all
}
