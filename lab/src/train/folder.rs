//! A training in a folder: where it is left off, its losses, and what is told of it in the end.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::attention::{Attends, Backend};
use super::checkpoint;
use super::course::{Course, Step};
use super::data::Texts;
use super::rows::Row;
use super::settings::Settings;
use crate::subword::kneser_ney::KneserNey;

/// How long a training goes without a checkpoint.
const UNSAVED: Duration = Duration::from_secs(120);

/// A folder for one training.
pub struct Folder<'f> {
    /// Where it is.
    pub path: &'f Path,
    /// The git revision of the lab.
    pub revision: &'f str,
}

/// Where a training is.
pub enum Now {
    /// It took a step, at so many tokens a second.
    Step(Step, f64),
    /// The held-out text is read, by a batch more.
    Judging,
}

impl Folder<'_> {
    /// Where a training is left off.
    pub fn checkpoint(&self) -> PathBuf {
        self.path.join("checkpoint")
    }

    /// The loss of every step.
    pub fn losses(&self) -> PathBuf {
        self.path.join("losses.csv")
    }

    /// The weights in the end.
    pub fn model(&self) -> PathBuf {
        self.path.join("model")
    }

    /// What is told of the training, which is written last.
    pub fn told(&self) -> PathBuf {
        self.path.join("train.json")
    }

    /// What is told of a training that is over, if it was as this one.
    ///
    /// # Errors
    /// A file that can't be read, or is of another training.
    pub fn done(&self, settings: &Settings, texts: &Texts, backend: Backend) -> Result<Option<Row>> {
        let path = self.told();
        if !path.exists() {
            return Ok(None);
        }
        let context = || format!("reading {}", path.display());
        let row: Row = serde_json::from_str(&std::fs::read_to_string(&path).with_context(context)?)
            .with_context(context)?;
        ensure!(
            (&row.settings(), &row.tokens_sha256[..], &row.backend[..])
                == (settings, &texts.digest()[..], backend.name()),
            "{}: it is of other texts, another --backend or other options; give another folder",
            path.display()
        );
        Ok(Some(row))
    }

    /// Trains, from where it was left off if that is asked for and there is such a place. `step`
    /// hears of the progress and may end it: a checkpoint is left then, as it is every two minutes.
    ///
    /// # Errors
    /// Those of the training and of `step`; files that can't be written.
    pub fn train(
        &self,
        (settings, texts, backend): (&Settings, &Texts, Backend),
        resume: bool,
        begun: Instant,
        step: &mut dyn FnMut(Now) -> Result<()>,
    ) -> Result<Row> {
        std::fs::create_dir_all(self.path).with_context(|| format!("making {}", self.path.display()))?;
        // What was there is of a training that is about to be another.
        remove(&self.told())?;
        let tokens = texts.digest();
        let mut course = Course::new(settings, texts, Attends::new(backend, settings)?)?;
        let mut losses: Vec<Step> = Vec::new();
        if resume && self.checkpoint().exists() {
            checkpoint::load(&self.checkpoint(), &mut course, &tokens, backend.name())?;
            losses = crate::table::read(&self.losses())?;
            losses.truncate(course.step);
            ensure!(
                losses.len() == course.step,
                "{}: it has {} steps, the checkpoint {}",
                self.losses().display(),
                losses.len(),
                course.step
            );
        }
        // Losses may be ahead of the checkpoint, never behind.
        let save = |course: &Course<'_>, losses: &[Step]| -> Result<()> {
            crate::table::write(&self.losses(), losses)?;
            checkpoint::save(&self.checkpoint(), course, &tokens, backend.name(), true)
        };
        let (first, started, mut saved) = (course.step, Instant::now(), Instant::now());
        let speed = |course: &Course<'_>| {
            ((course.step - first) * settings.batch_tokens()) as f64 / started.elapsed().as_secs_f64()
        };
        while course.step < settings.steps {
            let now = course.advance()?;
            losses.push(now);
            let told = step(Now::Step(now, speed(&course)));
            if told.is_err() || saved.elapsed() > UNSAVED {
                save(&course, &losses)?;
                saved = Instant::now();
            }
            told?;
        }
        let tokens_per_s = speed(&course);
        save(&course, &losses)?;
        let bits_per_byte = course.bits_per_byte(usize::MAX, &mut || step(Now::Judging))?;
        let counted = |order| {
            let bits = KneserNey::of_order(order, &texts.train, texts.pieces).bits(&texts.held_out);
            bits / texts.held_out_bytes as f64
        };
        let tenth = &losses[losses.len() - losses.len().div_ceil(10)..];
        let Settings { pieces, layers, width, heads, kv_heads, hidden, context, batch, .. } = *settings;
        let Settings { steps, warm_up, rate, decay, seed, .. } = *settings;
        let row = Row {
            text: texts.names[0].clone(),
            held_out: texts.names[1].clone(),
            tokens_sha256: tokens.clone(),
            backend: backend.name().into(),
            device: course.device(),
            pieces,
            parameters: course.decoder.size(),
            layers,
            width,
            heads,
            kv_heads,
            hidden,
            context,
            batch,
            steps,
            warm_up,
            rate,
            decay,
            seed,
            train_tokens: texts.train.len(),
            tokens: course.step * settings.batch_tokens(),
            held_out_bytes: texts.held_out_bytes,
            bits_per_byte,
            trigram_bits: counted(3),
            five_gram_bits: counted(5),
            last_loss: tenth.iter().map(|step| step.loss).sum::<f64>() / tenth.len() as f64,
            tokens_per_s,
            seconds: begun.elapsed().as_secs_f64(),
            revision: self.revision.into(),
        };
        checkpoint::save(&self.model(), &course, &tokens, backend.name(), false)?;
        testkit::files::write(&self.told(), serde_json::to_string_pretty(&row)? + "\n")?;
        remove(&self.checkpoint())?;
        Ok(row)
    }
}

/// Removes a file, if it is there.
fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}
