use std::ops::ControlFlow;
use std::time::Instant;

use super::attention::{Attends, Backend};
use super::compare::curves;
use super::course::Course;
use super::data::{Texts, vocabulary};
use super::folder::{Folder, Now};
use super::settings::Settings;

fn texts(settings: &Settings) -> Texts {
    let text = include_bytes!("../../../fixtures/persuasion.txt");
    let tokenizer = vocabulary(&text[..40_000], settings.pieces, &mut || ControlFlow::Continue(())).unwrap();
    let names = ["persuasion.txt".into(), "rest".into()];
    Texts::new(&tokenizer, names, &text[..40_000], &text[40_000..46_000]).unwrap()
}

fn small() -> Settings {
    Settings {
        pieces: 300,
        layers: 2,
        width: 32,
        heads: 4,
        kv_heads: 2,
        hidden: 48,
        context: 40,
        batch: 3,
        steps: 12,
        warm_up: 3,
        rate: 1e-2,
        ..Settings::quick()
    }
}

fn go_on(_: Now) -> anyhow::Result<()> {
    Ok(())
}

#[test]
fn sizes_are_what_they_are_said_to_be() {
    for settings in [small(), Settings::quick()] {
        settings.check().unwrap();
        let decoder = super::decoder::Decoder::new(&settings).unwrap();
        assert_eq!(decoder.size(), settings.parameters());
    }
    assert!((1_000_000..5_000_000).contains(&Settings::quick().parameters()));
    let refused = Settings { kv_heads: 3, ..small() }.check().unwrap_err();
    assert!(refused.to_string().starts_with("--kv-heads"), "{refused}");
    assert!(Settings { width: 30, ..small() }.check().is_err());
    assert!(Settings { rate: f64::NAN, ..small() }.check().is_err());
}

/// Up by steps, then down by a cosine to a tenth.
#[test]
fn the_rate_rises_and_falls() {
    let settings = Settings { steps: 103, ..small() };
    assert!((settings.rate_at(0) - settings.rate / 3.0).abs() < 1e-12);
    assert_eq!((settings.rate_at(2), settings.rate_at(3)), (settings.rate, settings.rate));
    assert!((settings.rate_at(53) - 0.55 * settings.rate).abs() < 1e-12);
    assert!((settings.rate_at(103) - 0.1 * settings.rate).abs() < 1e-12);
}

/// prflash's gradients are candle's: by all of them the same model is trained.
#[test]
fn curves_of_the_native_engine_and_of_candle_agree() {
    let settings = small();
    let texts = texts(&settings);
    let all = curves(&settings, &texts, &[Backend::Candle, Backend::Native], 12, &mut || Ok(())).unwrap();
    assert!(all[1].farthest < 2e-4, "{all:?}");
    assert!(all[0].losses[11] < all[0].losses[0] - 0.3, "nothing was learned: {all:?}");
}

/// Ended at any step and resumed, a training has the bits of one that wasn't.
#[test]
fn a_resumed_training_has_the_same_bits() {
    let settings = small();
    let texts = texts(&settings);
    let folder = tempfile::tempdir().unwrap();
    let [whole, ended] = ["whole", "ended"].map(|name| folder.path().join(name));
    let at = |path| Folder { path, revision: "none" };
    let of = (&settings, &texts, Backend::Native);
    let begun = Instant::now();
    let row = at(&whole).train(of, false, begun, &mut go_on).unwrap();
    let mut left = 5;
    let refused = at(&ended).train(of, false, begun, &mut |_| {
        left -= 1;
        if left == 0 { Err(crate::Interrupted.into()) } else { Ok(()) }
    });
    assert!(refused.unwrap_err().is::<crate::Interrupted>());
    assert!(at(&ended).checkpoint().exists() && at(&ended).done(&settings, &texts, of.2).unwrap().is_none());
    // Of another training it is none.
    let other = Settings { seed: 2, ..settings.clone() };
    let refused = at(&ended).train((&other, &texts, of.2), true, begun, &mut go_on).unwrap_err();
    assert!(refused.to_string().contains("other options"), "{refused}");
    let resumed = at(&ended).train(of, true, begun, &mut go_on).unwrap();
    assert_eq!(resumed.bits_per_byte.to_bits(), row.bits_per_byte.to_bits());
    let read =
        |folder: &Folder<'_>| [folder.model(), folder.losses()].map(|path| std::fs::read(path).unwrap());
    assert!(read(&at(&whole)) == read(&at(&ended)), "other weights or losses");
    assert!(!at(&ended).checkpoint().exists());
    let done = at(&ended).done(&settings, &texts, of.2).unwrap().unwrap();
    assert_eq!(done.bits_per_byte, row.bits_per_byte);
    assert!(row.trigram_bits > row.five_gram_bits * 0.8 && row.bits_per_byte > 0.0);
}

/// A checkpoint with a flipped bit is told from a whole one.
#[test]
fn spoilt_checkpoints_are_refused() {
    let settings = small();
    let texts = texts(&settings);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let attention = || Attends::new(Backend::Native, &settings).unwrap();
    let mut course = Course::new(&settings, &texts, attention()).unwrap();
    super::checkpoint::save(&path, &course, "tokens", "cpu", true).unwrap();
    let mut contents = std::fs::read(&path).unwrap();
    let last = contents.len() - 1;
    contents[last] ^= 1;
    std::fs::write(&path, contents).unwrap();
    let refused = super::checkpoint::load(&path, &mut course, "tokens", "cpu").unwrap_err();
    assert!(refused.to_string().ends_with("it is spoilt"), "{refused}");
}

/// All windows together predict each token once.
#[test]
fn every_token_is_judged_once() {
    let settings = small();
    let texts = texts(&settings);
    let course = Course::new(&settings, &texts, Attends::new(Backend::Native, &settings).unwrap()).unwrap();
    let mut batches = 0;
    let bits = course.bits_per_byte(usize::MAX, &mut || {
        batches += 1;
        Ok(())
    });
    // Nothing learned: nearly as many bits as there are pieces.
    let uniform = (settings.pieces as f64).log2() * texts.held_out.len() as f64 / texts.held_out_bytes as f64;
    let bits = bits.unwrap();
    assert!((bits / uniform - 1.0).abs() < 0.05, "{bits}, uniform {uniform}");
    let windows = (texts.held_out.len() - 1).div_ceil(settings.context / 2);
    assert_eq!(batches, windows.div_ceil(settings.batch));
}
