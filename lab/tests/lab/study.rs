//! The study of the paper's questions on small random models: sweeps resume, reports say what there
//! is, and the committed report is what the committed files give.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::Tiny;
use candle_core::quantized::GgmlDType;
use lab::Interrupted;
use lab::ages::{self, Recorder};
use lab::attend::Attend;
use lab::backend::{Backend, Loaded};
use lab::cpu::CpuAttention;
use lab::decode;
use lab::needle::{self, Prompt};
use lab::report::{Paths, write, write_experiments};
use lab::setting::Setting;
use lab::speed;
use lab::study::{Choice, Experiment, ModelName, Place, Question, Size};
use lab::sweep::{Folders, Sweep};

/// Tokens of a window.
const WIDTH: usize = 200;

struct Study {
    folder: tempfile::TempDir,
}

impl Study {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for part in ["models", "texts"] {
            fs::create_dir(folder.path().join(part)).unwrap();
        }
        let file = |model: ModelName| folder.path().join("models").join(model.file());
        Tiny::Llama.write(&file(ModelName::SmolLm2), GgmlDType::Q8_0);
        Tiny::Gemma.write(&file(ModelName::Gemma3), GgmlDType::Q8_0);
        for (name, words) in [("emma", 900), ("wiki", 1000)] {
            fs::write(folder.path().join(format!("texts/{name}.txt")), crate::common::text(words)).unwrap();
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs until `stop` measurements have come.
    fn sweep(&self, results: &str, stop: usize) -> anyhow::Result<usize> {
        let folders =
            Folders { models: self.path("models"), texts: self.path("texts"), results: self.path(results) };
        let sweep = Sweep::new(&Backend::Cpu, 64, "test", folders);
        let (mut units, mut done) = (0, 0.0);
        sweep.run(&experiments(), &mut |progress| {
            assert!(progress.done >= done && progress.done <= 1.0, "{} after {done}", progress.done);
            done = progress.done;
            if progress.outcome.is_none() && units == stop {
                return Err(Interrupted.into());
            }
            units += usize::from(progress.outcome.is_some());
            Ok(())
        })?;
        assert!(units == 0 || (done - 1.0).abs() < 1e-9, "{done}");
        Ok(units)
    }

    /// Rows of all files, without what differs between runs: seconds, the last column where there
    /// is one.
    fn rows(&self, results: &str) -> Vec<String> {
        let mut all = Vec::new();
        for question in Question::ALL {
            let path = self.path(results).join(format!("{}.csv", question.name()));
            let Ok(text) = fs::read_to_string(path) else { continue };
            let row = |line: &str| match question {
                Question::Ages => line.to_owned(),
                _ => line.rsplit_once(',').unwrap().0.to_owned(),
            };
            all.extend(text.lines().skip(1).map(row));
        }
        all.sort();
        all
    }
}

fn choice(name: &str, options: &str) -> Choice {
    Choice { name: name.into(), options: options.into() }
}

fn experiments() -> Vec<Experiment> {
    let places = vec![Place { text: "emma", window: 0 }, Place { text: "wiki", window: 1 }];
    let experiment = |question, model, width, choices: &[Choice]| Experiment {
        question,
        model,
        places: places.clone(),
        width,
        choices: choices.to_vec(),
        depths: if question == Question::Needle { vec![10, 90] } else { Vec::new() },
    };
    let sampled = "--profile half-window:8 --block-size 8";
    let stairs = "--staircase recommended;segment=32;residual=32 --staircase-layers all";
    vec![
        experiment(
            Question::Sampling,
            ModelName::SmolLm2,
            WIDTH,
            &[
                choice("dense", ""),
                choice("half window, 8 blocks", &format!("--attention prflash --beta 0.5 {sampled}")),
                choice("sink + window, 8 blocks", &format!("--attention sink-window {sampled}")),
            ],
        ),
        experiment(Question::Needle, ModelName::Gemma3, 400, &[choice("dense", "")]),
        experiment(
            Question::Staircase,
            ModelName::Gemma3,
            WIDTH,
            &[choice("f16", "--staircase plain --staircase-layers all"), choice("recommended", stairs)],
        ),
        experiment(Question::Ages, ModelName::Gemma3, WIDTH, &[choice("recommended", stairs)]),
        experiment(
            Question::Positions,
            ModelName::SmolLm2,
            WIDTH,
            &[choice("none", ""), choice("harmonic, λ = 0.1", "--bias harmonic --bias-weight 0.1")],
        ),
    ]
}

#[test]
fn a_sweep_resumes_and_its_report_says_what_there_is() {
    let study = Study::new();
    // Nothing measured: a report all the same.
    let paths = |results: &str, out: &str| Paths {
        results: study.path(results),
        answers: None,
        out: study.path(out).join("RESULTS.md"),
    };
    let nothing = write_experiments(&paths("none", "none"), &experiments(), false).unwrap();
    assert_eq!((nothing.measured, nothing.pictures.len()), (0, 0));
    let text = fs::read_to_string(nothing.report).unwrap();
    assert!(text.contains("Nothing is measured yet"), "{text}");

    let all = study.sweep("whole", usize::MAX).unwrap();
    let asked = 2 * 3 + 2 + 2 * 2 + 2 + 2 * 2;
    assert_eq!(all, asked, "tasks");
    assert_eq!(study.sweep("whole", usize::MAX).unwrap(), 0, "everything was there");

    // Stopped twice within a task, once with a torn file in between.
    for stop in [2, 5] {
        let error = study.sweep("parts", stop).unwrap_err();
        assert!(error.is::<Interrupted>(), "{error:#}");
        let file = study.path("parts/sampling.csv");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, &text[..text.len() - 30]).unwrap();
    }
    study.sweep("parts", usize::MAX).unwrap();
    assert_eq!(study.rows("parts"), study.rows("whole"));

    // Two programs at once leave a unit twice: one of them counts.
    let file = study.path("parts/positions.csv");
    let text = fs::read_to_string(&file).unwrap();
    let (header, rows) = text.split_once('\n').unwrap();
    fs::write(&file, format!("{header}\n{rows}{rows}")).unwrap();
    let written = write_experiments(&paths("parts", "report"), &experiments(), false).unwrap();
    assert_eq!((written.measured, written.asked), (asked + 2, asked + 2), "two passkeys a text");
    assert_eq!(study.sweep("parts", usize::MAX).unwrap(), 0);
    assert_eq!(study.rows("parts"), study.rows("whole"));

    // The same files give the same report, byte for byte.
    let report = |out: &str| {
        let written = write_experiments(&paths("whole", out), &experiments(), false).unwrap();
        let names: Vec<_> =
            written.pictures.iter().map(|path| path.file_name().unwrap().to_owned()).collect();
        let pictures: Vec<_> =
            written.pictures.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
        (fs::read_to_string(written.report).unwrap(), names, pictures)
    };
    let first = report("one");
    assert_eq!(first, report("two"));
    let (text, names, pictures) = first;
    for picture in &names {
        assert!(text.contains(&format!("plots/{}", picture.to_str().unwrap())));
    }
    assert!(pictures.iter().all(
        |picture| (picture.contains("<circle") || picture.contains("<rect")) && !picture.contains("NaN")
    ));
    for part in
        ["| half window, 8 blocks | 2 |", "better in", "2 windows.", "nats over f16", "0..128", "λ = 0.1"]
    {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert!(!text.contains("NaN") && !text.contains("Nothing is measured"), "{text}");
}

#[test]
fn a_passkey_stands_where_it_is_said_to() {
    let study = Study::new();
    for model in [ModelName::SmolLm2, ModelName::Gemma3] {
        let mut loaded = Loaded::open(&study.path("models").join(model.file()), |_, _| Ok(())).unwrap();
        let hay = loaded.tokenizer.encode(&crate::common::text(600), false).unwrap();
        let prompt = |loaded: &mut Loaded, depth, seed| {
            Prompt::new(&mut loaded.tokenizer, &hay, 400, depth, seed).unwrap()
        };
        let mut last = 0;
        for depth in needle::DEPTHS {
            let prompt = prompt(&mut loaded, depth, 7);
            assert_eq!((prompt.ids.len(), prompt.answer.end), (400, 400));
            assert!(prompt.needle > last);
            last = prompt.needle;
            let text = |ids: &[u32]| loaded.tokenizer.decode(ids).unwrap();
            assert_eq!(text(&prompt.ids[prompt.answer.clone()]).trim(), prompt.key);
            let whole = text(&prompt.ids);
            assert_eq!(whole.matches(&prompt.key).count(), 3, "{whole}");
            assert!(text(&prompt.ids[prompt.needle..]).trim_start().starts_with("The pass key is"));
            assert!(
                whole.ends_with(&format!("What is the pass key? The pass key is {}", prompt.key)),
                "{whole}"
            );
            assert_eq!(
                loaded.tokenizer.bos(),
                prompt.ids.first().copied().filter(|_| model == ModelName::Gemma3)
            );
        }
        assert_ne!(prompt(&mut loaded, 10, 1).key, prompt(&mut loaded, 10, 2).key);
        let mut refused = |hay: &[u32], width| {
            Prompt::new(&mut loaded.tokenizer, hay, width, 50, 0).unwrap_err().to_string()
        };
        assert!(refused(&hay, 50).contains("--width"));
        assert!(refused(&hay[..20], 400).contains("tokens of text"));
    }
}

/// A passkey counts as found exactly when greedy decoding writes it.
#[test]
fn found_is_what_greedy_decoding_writes() {
    let study = Study::new();
    let path = study.path("models").join(ModelName::SmolLm2.file());
    let mut loaded = Loaded::open(&path, |_, _| Ok(())).unwrap();
    let hay = loaded.tokenizer.encode(&crate::common::text(600), false).unwrap();
    let mut prompt = Prompt::new(&mut loaded.tokenizer, &hay, 300, 50, 3).unwrap();
    let setting = Setting::from_options("").unwrap();
    let mut attention = CpuAttention::new(loaded.config(), &setting).unwrap();
    let mut found = |prompt: &Prompt, chunk| {
        let pieces = setting.pieces(prompt.ids.len(), chunk);
        needle::evaluate(&loaded, &mut attention, prompt, (0, 50), &pieces, &mut |_| Ok(())).unwrap()
    };
    let first = found(&prompt, 64);
    assert!(!first.right && first.nll > 0.0, "a random model knows nothing: {first:?}");
    // Pieces that cut the answer change nothing.
    for chunk in [298, 7, 1] {
        let other = found(&prompt, chunk);
        assert_eq!((&other.answer, other.right), (&first.answer, first.right));
        assert!((other.nll - first.nll).abs() < 1e-3 * first.nll);
    }
    // Put the model's own words in place of the number, token by token: now it is found.
    let mut attention = CpuAttention::new(loaded.config(), &setting).unwrap();
    for at in prompt.answer.clone() {
        attention.start(50);
        let hidden = loaded.model.forward(&prompt.ids[..at], &mut attention, &mut |_| Ok(())).unwrap();
        let logits = loaded.model.logits(&hidden).unwrap().to_vec2::<f32>().unwrap();
        let last = logits.last().unwrap();
        prompt.ids[at] = (0..last.len()).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap() as u32;
    }
    assert!(found(&prompt, 64).right);
}

#[test]
fn errors_by_age_follow_the_bits() {
    let study = Study::new();
    let path = study.path("models").join(ModelName::Gemma3.file());
    let loaded = Loaded::open(&path, |_, _| Ok(())).unwrap();
    let config = loaded.config();
    let dense = Setting::from_options("").unwrap();
    let tokens = crate::common::ids(WIDTH);
    let plain = || Box::new(CpuAttention::new(config, &dense).unwrap());
    let stairs =
        |text: &str| Setting::from_options(&format!("--staircase {text} --staircase-layers all")).unwrap();
    let precise = stairs("plain;segment=32;residual=32");
    let layers = ages::layers(config, &precise);
    assert_eq!(layers, [0, 1, 2, 3]);
    assert_eq!(ages::layers(config, &Setting::from_options("--staircase plain").unwrap()), [1, 3]);

    // Recording changes nothing.
    let mut recorder = Recorder::new(plain(), &layers);
    let mut alone = plain();
    let run = |attention: &mut dyn Attend| {
        attention.start(0);
        let mut rows = Vec::new();
        for piece in tokens.chunks(64) {
            let hidden = loaded.model.forward(piece, attention, &mut |_| Ok(())).unwrap();
            rows.extend(hidden.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        }
        rows
    };
    assert_eq!(run(&mut recorder), run(alone.as_mut()));

    let error = |setting: &Setting, layer: usize| {
        let (_, recorded) = recorder.layers().find(|(other, _)| *other == layer).unwrap();
        ages::by_age(config, setting, (0, layer), recorded).unwrap()
    };
    for layer in layers.iter().copied() {
        // Rounding to f16: 2⁻¹¹ of values of the order of 1.
        let precise = error(&precise, layer);
        assert!(precise.iter().all(|age| age.whole_error < 2e-3), "{precise:?}");
        let mass: f64 = precise.iter().map(|age| age.mass).sum();
        assert!((mass - 1.0).abs() < 1e-9, "{mass}");
        let whole =
            |bits| error(&stairs(&format!("kivi{bits};segment=32;residual=32")), layer)[0].whole_error;
        let (two, four, eight) = (whole(2), whole(4), whole(8));
        assert!(two > 2.0 * four && four > 4.0 * eight && eight > 0.0, "{two} {four} {eight}");
        // The newest tokens are precise, so older ones carry the error of scores; a window of 24
        // tokens is precise altogether.
        let ages = error(&stairs("kivi2;segment=32;residual=32"), layer);
        assert_eq!(ages.iter().map(|age| age.ages.clone()).collect::<Vec<_>>(), [0..128, 128..200]);
        if config.window(layer).is_none() {
            assert!(ages[1].score_error > ages[0].score_error, "{ages:?}");
        } else {
            // Queries up to 64 tokens back see 24 tokens each.
            assert_eq!(ages[1].score_error, None);
            assert_eq!(ages[1].mass, 0.0);
        }
    }
}

#[test]
fn times_come_in_turns() {
    let Some(context) = crate::common::gpu("times_come_in_turns") else { return };
    let study = Study::new();
    for model in [ModelName::SmolLm2, ModelName::Gemma3] {
        let loaded = Loaded::open(&study.path("models").join(model.file()), |_, _| Ok(())).unwrap();
        let measure = |options: &str| {
            let setting = Setting::from_options(options).unwrap();
            let mut steps = 0;
            let timed = speed::measure(&context, loaded.config(), &setting, 200, &mut |round| {
                assert_eq!(round, steps);
                steps += 1;
                Ok(())
            });
            assert!(timed.is_err() || steps == speed::ROUNDS);
            timed
        };
        let timed = measure("--attention prflash --block-size 16 --beta 0.5").unwrap();
        assert_eq!(timed.len(), speed::ROUNDS);
        assert!(timed.iter().all(|round| round.seconds > 0.0 && round.dense_seconds > 0.0));
        let refused = measure("--attention prflash --rounds 2").unwrap_err().to_string();
        assert!(refused.contains("rounds"), "{refused}");

        // Single tokens, over tensors and over a staircase.
        let stairs = "--staircase recommended;segment=32;residual=32 --staircase-layers all";
        for options in [
            "--attention content --profile 2;bits=8;group=16 --block-size 16 --storage f16".to_owned(),
            format!("--attention content --profile 2;bits=8;group=16 --block-size 16 {stairs}"),
            format!("--attention sink-window --profile half-window:2 --block-size 16 {stairs}"),
        ] {
            let setting = Setting::from_options(&options).unwrap();
            let timed = decode::measure(&context, &loaded.model, &setting, 200, &mut |_| Ok(())).unwrap();
            assert_eq!(timed.len(), speed::ROUNDS);
            assert!(timed.iter().all(|round| round.seconds > 0.0 && round.dense_seconds > 0.0), "{options}");
        }
    }
}

/// `lab report` was run behind the last change of the files of results, of the study and of the
/// report.
#[test]
fn the_committed_report_is_what_the_committed_files_give() {
    let lab = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let paths = Paths {
        results: lab.join("results"),
        answers: Some(lab.join("answers")),
        out: folder.path().join("RESULTS.md"),
    };
    let written = write(&paths, &[Size::Default, Size::Long]).unwrap();
    let again = "run `lab report` in the root of the repository";
    let text = |path: &Path| fs::read_to_string(path).unwrap();
    let (new, committed) = (text(&written.report), text(&lab.join("RESULTS.md")));
    let other = new.lines().zip(committed.lines()).find(|(new, committed)| new != committed);
    assert!(new == committed, "{again}; the first line that is another: {other:?}");
    let committed = fs::read_dir(lab.join("plots")).unwrap().count();
    assert_eq!(written.pictures.len(), committed, "{again}");
    for picture in &written.pictures {
        let name = picture.file_name().unwrap();
        let same = fs::read(picture).unwrap() == fs::read(lab.join("plots").join(name)).unwrap();
        assert!(same, "{}: {again}", name.display());
    }
}
