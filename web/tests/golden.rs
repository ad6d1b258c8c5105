//! What the page shows, computed natively: the same lists of blocks, and the same recall and
//! errors, as `golden.json` has them and as the page is held to in a browser (`browser.mjs`).
//!
//! `PRFLASH_WRITE_GOLDEN=1 cargo test -p prflash-web --test golden` writes the file anew.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use prflash_web::explore::{self, Explorer, Rule, Settings};
use prflash_web::fixture::Layer;
use prflash_web::generate::{self, Header, Loader, Writer};
use prflash_web::subwords::Subwords;
use prflash_web::{positions, staircase};
use serde_json::{Value, json};
use testkit::fixture;

/// What a number may differ between devices: errors of f32 are some millionths of it.
const SAME: f64 = 1e-6;

/// One of every rule, in both layers, with numbers of every control.
fn cases() -> Vec<Settings> {
    let case = |layer, rule, budget, alpha, beta, tau, seed| Settings {
        layer,
        tokens: 512,
        block: 32,
        rule,
        budget,
        alpha,
        beta,
        tau,
        seed,
    };
    vec![
        case(0, Rule::Dense, 6, 1.0, 0.5, 0.5, 42),
        case(0, Rule::Window, 6, 1.0, 0.5, 0.5, 42),
        case(1, Rule::Distance, 5, 0.7, 0.5, 0.5, 7),
        case(1, Rule::Content, 4, 1.0, 0.5, 0.5, 42),
        case(0, Rule::Both, 6, 0.5, 1.0, 0.8, 3),
    ]
}

fn explorer() -> Result<Explorer> {
    let mut explorer = Explorer::default();
    for (number, layer) in fixture::load(1536)?.into_iter().enumerate() {
        explorer.take(number, Layer { index: layer.index, q: layer.q, k: layer.k, v: layer.v });
    }
    Ok(explorer)
}

/// The numbers of a case: those of the host, and the errors of a device where there is one.
fn numbers(explorer: &mut Explorer, settings: &Settings, device: Option<&prflash::Context>) -> Result<Value> {
    let schedule = explorer.schedule(settings)?;
    let (exact, mass) = explorer.exact(settings)?;
    let errors = match device {
        Some(context) => {
            let job = explorer.uploaded(context, settings)?;
            let ran = pollster::block_on(job.run(1, |_| {}))?;
            Some(explore::errors(&ran.output, &exact.output).1)
        }
        None => None,
    };
    let rule = Rule::ALL.iter().position(|rule| *rule == settings.rule);
    let Settings { layer, tokens, block, budget, alpha, beta, tau, seed, .. } = settings;
    Ok(json!({
        "choice": [layer, tokens, block, rule, budget, alpha, beta, tau, seed],
        "checksum": format!("{:016x}", explore::checksum(&schedule)),
        "visited": schedule.visited_blocks(),
        "recall": mass.recall(&schedule)?,
        "errors": errors,
    }))
}

/// How often the small model reads its phrase, and how many tokens it writes then: together more
/// than the newest that are kept in f16.
const READ: usize = 16;
const WRITTEN: usize = 32;

/// How far each of these is ahead of the second likeliest, at least: many times what devices
/// differ by.
const LEAD: f32 = 2e-2;

/// What the small random model goes on with.
fn written(context: &prflash::Context) -> Result<Value> {
    let text = "the hand and 12 thin hats; ".repeat(READ);
    let file = generate::tiny::file();
    let header = Header::read(&file, file.len() as u64)?.context("a header")?;
    let mut loader = Loader::new(&header, file.len() as u64)?;
    for number in 0..loader.pieces().len() {
        let piece = &loader.pieces()[number];
        let (from, bytes) = (piece.offset as usize, piece.bytes as usize);
        loader.take(number, &file[from..from + bytes])?;
    }
    let tokens = pollster::block_on(async {
        let mut writer = Writer::new(context, loader.finish()?).await?;
        writer.start()?;
        let mut tokens = Vec::new();
        for token in writer.tokens(&text) {
            writer.read(token).await?;
        }
        while let Some(next) = writer.likeliest().filter(|_| tokens.len() < WRITTEN) {
            ensure!(writer.lead() > LEAD, "token {} is ahead by {} only", tokens.len(), writer.lead());
            tokens.push(next);
            writer.read(next).await?;
        }
        writer.check().await?;
        Ok(tokens)
    })?;
    Ok(json!({ "arguments": [text, WRITTEN], "tokens": tokens }))
}

/// How both kinds of vocabulary cut a sentence.
fn cut() -> Result<Value> {
    let text = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/persuasion.txt"))?;
    let (bytes, size) = (100_000, 512);
    let sentence = "Unquestionably, her perseverance was overlooked: 17 naïve letters!";
    let cut = Subwords::train(&text[..bytes], size, |_, _| {})?.cut(sentence);
    Ok(json!({ "arguments": [bytes, size, sentence], "cut": cut }))
}

/// Whether two values are the same but for the last digits of their numbers.
fn same(got: &Value, want: &Value) -> bool {
    match (got, want) {
        (Value::Number(got), Value::Number(want)) => {
            got.as_f64().zip(want.as_f64()).is_some_and(|(got, want)| (got - want).abs() <= SAME)
        }
        (Value::Array(got), Value::Array(want)) => {
            got.len() == want.len() && got.iter().zip(want).all(|(got, want)| same(got, want))
        }
        (Value::Object(got), Value::Object(want)) => {
            got.len() == want.len()
                && got.iter().all(|(key, got)| want.get(key).is_some_and(|want| same(got, want)))
        }
        // Without a device there are no errors to compare.
        (Value::Null, _) => true,
        _ => got == want,
    }
}

#[test]
fn the_page_shows_what_a_native_run_computes() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden.json");
    let context = testkit::device::gpu("the page's numbers");
    let mut explorer = explorer()?;
    let cases = cases()
        .iter()
        .map(|case| numbers(&mut explorer, case, context.as_ref()))
        .collect::<Result<Vec<_>>>()?;
    let loss = staircase::loss(explorer.layer(1), 2, 700)?;
    let wanted = positions::Wanted { context: 4096, heads: 8, length: 64.0, cap: 1024 };
    let written = context.as_ref().map(written).transpose()?;
    let got = json!({
        "written": written,
        "cut": cut()?,
        "cases": cases,
        "loss": { "arguments": [1, 2, 700], "output_error": loss["output_error"] },
        "standing": { "arguments": [0, 1000], "total": staircase::standing(0, 1000)?["total"] },
        "beyond": { "arguments": [4096, 8, 64.0, 1024], "last": positions::curves(&wanted)?["curves"][2]["beyond"] },
    });
    if std::env::var("PRFLASH_WRITE_GOLDEN").is_ok_and(|write| write == "1") {
        ensure!(context.is_some(), "golden numbers need a device");
        std::fs::write(&path, serde_json::to_string_pretty(&got)? + "\n")?;
    }
    let file = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let want: Value = serde_json::from_str(&file)?;
    ensure!(same(&got, &want), "expected the numbers of {}, got {got:#}", path.display());
    // Both kinds must differ, or a panel compares nothing.
    ensure!(
        want["cut"]["cut"]["bpe"]["pieces"] != want["cut"]["cut"]["swe"]["pieces"],
        "same cuts in {file}"
    );
    // Sampled blocks must matter, or nothing was compared.
    ensure!(want["cases"][3]["errors"][0].as_f64().is_some_and(|error| error > 1e-3), "no errors in {file}");
    ensure!(!same(&json!(0.5), &json!(0.5 + 2.0 * SAME)) && !same(&json!([1]), &json!([1, 2])));
    Ok(())
}

#[test]
fn inputs_that_are_cut_off_are_refused() {
    for bytes in [&[][..], &[1, 0, 0, 0, 1, 0, 0, 0], &[0; 8]] {
        assert!(prflash_web::fixture::read(bytes).is_err());
    }
}
