//! Computes what a [study](crate::study) asks for, a unit at a time, into files that keep what is
//! there.

mod pace;

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::ages::{self, AgeError, Recorder};
use crate::attend::Attend;
use crate::backend::{Backend, Loaded};
use crate::config::Config;
use crate::decode;
use crate::gguf::{ModelFile, sha256};
use crate::needle::{self, Found, Prompt};
use crate::perplexity::{Evaluated, Windows, evaluate};
use crate::results::{InWindow, Measured, Results, Row, Source};
use crate::setting::Setting;
use crate::speed::{self, Timed};
use crate::study::{Choice, Experiment, ModelName, NOWHERE, Place, Question};

pub use pace::Progress;
use pace::{Pace, Watch};

/// A setting with its name.
#[derive(Clone, Debug)]
pub struct Named {
    /// The name that tables have of it.
    pub name: String,
    /// The setting itself.
    pub setting: Setting,
}

/// The folders of models, texts and results.
#[derive(Clone, Debug)]
pub struct Folders {
    /// The folder of GGUF files.
    pub models: PathBuf,
    /// The folder of texts.
    pub texts: PathBuf,
    /// The folder of results.
    pub results: PathBuf,
}

impl Folders {
    /// The file with the results of a question.
    pub fn results_of(&self, question: Question) -> PathBuf {
        self.results.join(format!("{}.csv", question.name()))
    }
}

/// Who computes, and how.
pub struct Sweep<'a> {
    /// The backend that computes attention.
    pub backend: &'a Backend,
    /// Tokens read at a time.
    pub chunk: usize,
    /// The program's git revision.
    pub revision: &'a str,
    /// The folders of models, texts and results.
    pub folders: Folders,
    /// Sums of model files, which are large.
    sums: RefCell<HashMap<String, String>>,
}

/// One window under one setting: rows of results.
///
/// # Errors
/// As [`evaluate`].
pub fn window_rows(
    loaded: &Loaded,
    attention: &mut dyn Attend,
    named: &Named,
    source: &Source,
    (windows, window): (&Windows, usize),
    chunk: usize,
    step: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Row<InWindow>>> {
    let pieces = named.setting.pieces(windows.width(), chunk);
    let Evaluated { buckets, seconds, usage } =
        evaluate(&loaded.model, &loaded.tokenizer, attention, windows, window, &pieces, step)?;
    let kv_bytes = [usage.kv_bytes, usage.kv_capacity_bytes, usage.kv_f16_bytes];
    let measured = buckets.into_iter().map(|bucket| InWindow { window, bucket, kv_bytes, seconds });
    Ok(rows(named, source, measured))
}

fn rows<M>(named: &Named, source: &Source, measured: impl IntoIterator<Item = M>) -> Vec<Row<M>> {
    let row = |measured| Row {
        name: named.name.clone(),
        setting: named.setting.values().to_vec(),
        source: source.clone(),
        measured,
    };
    measured.into_iter().map(row).collect()
}

/// What is computed at once.
struct Task {
    experiment: usize,
    place: Place,
    choice: usize,
    /// Units of results: windows, prompts or layers.
    units: Vec<usize>,
    cost: f64,
}

/// The files of results.
#[derive(Default)]
struct Files {
    windows: [Option<Results<InWindow>>; Question::ALL.len()],
    speed: Option<Results<Timed>>,
    decode: Option<Results<Timed>>,
    needle: Option<Results<Found>>,
    ages: Option<Results<AgeError>>,
}

impl<'a> Sweep<'a> {
    /// A sweep by a program of this git revision that reads `chunk` tokens at a time.
    pub fn new(backend: &'a Backend, chunk: usize, revision: &'a str, folders: Folders) -> Self {
        Self { backend, chunk, revision, folders, sums: RefCell::default() }
    }
}

impl Sweep<'_> {
    /// Computes what isn't there yet. `hear` is told before each layer and behind each unit, and
    /// may stop it.
    ///
    /// # Errors
    /// Files that are missing or others than those before; what the model, the device and `hear`
    /// return.
    pub fn run(
        &self,
        experiments: &[Experiment],
        hear: &mut dyn FnMut(&Progress<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut files = Files::default();
        let mut tasks = Vec::new();
        for (index, experiment) in experiments.iter().enumerate() {
            tasks.extend(self.missing(index, experiment, &mut files)?);
        }
        let mut pace =
            Pace { start: Instant::now(), total: tasks.iter().map(|task| task.cost).sum(), done: 0.0 };
        let mut loaded: Option<(ModelName, Loaded)> = None;
        let mut encoded: HashMap<(ModelName, &str), Rc<[u32]>> = HashMap::new();
        let mut recorded: Option<(usize, Place, Recorder<'_>)> = None;
        for task in &tasks {
            let experiment = &experiments[task.experiment];
            if loaded.as_ref().is_none_or(|(name, _)| *name != experiment.model) {
                let path = self.folders.models.join(experiment.model.file());
                let now = pace.progress(experiment.model.title(), 0.0);
                let model = Loaded::open(&path, |_, _| hear(&now))?;
                loaded = Some((experiment.model, model));
            }
            let Some((_, loaded)) = &mut loaded else { continue };
            let choice = named(&experiment.choices[task.choice])?;
            Setting::new(choice.setting.args(), loaded.config())
                .with_context(|| format!("setting {:?}", choice.name))?;
            let (text, source) = self.source(experiment, task.place, &loaded.file)?;
            let what = match task.place {
                NOWHERE => format!("{} tokens", experiment.width),
                Place { text, window } => format!("{text} {window}"),
            };
            let (question, model) = (experiment.question.name(), experiment.model.title());
            let title = format!("{question}: {model}, {what}, {}", choice.name);
            if experiment.question.is_timed() {
                let watch = Watch { pace: &pace, title: &title, cost: task.cost, hear: &mut *hear };
                let outcome = self.timed(experiment, loaded, (&choice, &source), &mut files, watch)?;
                pace.done += task.cost;
                hear(&Progress { outcome: Some(outcome), ..pace.progress(&title, 0.0) })?;
                continue;
            }
            let ids = match encoded.entry((experiment.model, task.place.text)) {
                Entry::Occupied(known) => known.get().clone(),
                Entry::Vacant(empty) => empty.insert(loaded.tokenizer.encode(&text, false)?.into()).clone(),
            };
            let windows = Windows::new(ids, &loaded.tokenizer, experiment.width)?;
            ensure!(
                task.place.window < windows.count(),
                "{}: {} windows of {} tokens, window {} was asked for",
                source.text,
                windows.count(),
                experiment.width,
                task.place.window
            );
            let job = Job {
                sweep: self,
                experiment,
                choice: &choice,
                place: task.place,
                source: &source,
                windows: &windows,
            };
            let mut watch = Watch { pace: &pace, title: &title, cost: task.cost, hear: &mut *hear };
            let outcome = match experiment.question {
                Question::Needle => job.needle(loaded, task, &mut files, &mut watch)?,
                Question::Ages => {
                    let layers = ages::layers(loaded.config(), &choice.setting);
                    let known = recorded.as_ref().is_some_and(|(index, place, recorder)| {
                        (*index, *place) == (task.experiment, task.place)
                            && recorder.layers().map(|(layer, _)| layer).eq(layers.iter().copied())
                    });
                    if !known {
                        recorded =
                            Some((task.experiment, task.place, job.record(loaded, &layers, &mut watch)?));
                    }
                    let Some((_, _, recorder)) = &recorded else { continue };
                    job.ages(loaded, recorder, task, &mut files)?
                }
                _ => job.perplexity(loaded, &mut files, &mut watch)?,
            };
            pace.done += task.cost;
            hear(&Progress { outcome: Some(outcome), ..pace.progress(&title, 0.0) })?;
        }
        Ok(())
    }

    fn timed(
        &self,
        experiment: &Experiment,
        loaded: &Loaded,
        (choice, source): (&Named, &Source),
        files: &mut Files,
        mut watch: Watch<'_>,
    ) -> Result<String> {
        let context = self.kernels(experiment.question)?;
        let step = &mut |round| watch.at(round as f64 / speed::ROUNDS as f64);
        let (file, timed) = match experiment.question {
            Question::Decode => {
                let timed = decode::measure(context, &loaded.model, &choice.setting, experiment.width, step)?;
                (&mut files.decode, timed)
            }
            _ => {
                let config = loaded.config();
                (&mut files.speed, speed::measure(context, config, &choice.setting, experiment.width, step)?)
            }
        };
        let mut ratios: Vec<f64> = timed.iter().map(|timed| timed.seconds / timed.dense_seconds).collect();
        ratios.sort_by(f64::total_cmp);
        file.as_mut().context("no file for times")?.append(rows(choice, source, timed))?;
        Ok(format!("{:.3} of dense", ratios[ratios.len() / 2]))
    }

    /// The device whose kernels are timed.
    fn kernels(&self, question: Question) -> Result<&prflash::Context> {
        match self.backend {
            Backend::Gpu(context) => Ok(context),
            _ => anyhow::bail!(
                "--backend {} has no kernels to time: leave {} out by --only",
                self.backend.name(),
                question.name()
            ),
        }
    }

    fn text(&self, place: Place) -> Result<(String, String)> {
        if place == NOWHERE {
            return Ok((String::new(), String::new()));
        }
        let name = format!("{}.txt", place.text);
        let path = self.folders.texts.join(&name);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("text {} (scripts/fetch-models all brings it)", path.display()))?;
        Ok((name, text))
    }

    fn source(&self, experiment: &Experiment, place: Place, file: &ModelFile) -> Result<(String, Source)> {
        let (name, text) = self.text(place)?;
        let known = self.sums.borrow().get(&file.name()).cloned();
        let model_sha256 = match known {
            Some(sum) => sum,
            None => file.sha256()?,
        };
        self.sums.borrow_mut().insert(file.name(), model_sha256.clone());
        let source = Source {
            model: file.name(),
            model_sha256,
            backend: self.backend.name().into(),
            device: self.backend.device(),
            text: name,
            text_sha256: sha256(text.as_bytes()),
            width: experiment.width,
            revision: self.revision.into(),
        };
        Ok((text, source))
    }

    /// The tasks of an experiment that its file doesn't have, window by window: so that a sweep
    /// that was stopped has all settings of fewer windows.
    fn missing(&self, index: usize, experiment: &Experiment, files: &mut Files) -> Result<Vec<Task>> {
        let question = experiment.question;
        if question.is_timed() {
            self.kernels(question)?;
        }
        let path = self.folders.results_of(question);
        match question {
            Question::Needle if files.needle.is_none() => files.needle = Some(Results::open(&path)?),
            Question::Speed if files.speed.is_none() => files.speed = Some(Results::open(&path)?),
            Question::Ages if files.ages.is_none() => files.ages = Some(Results::open(&path)?),
            Question::Decode if files.decode.is_none() => files.decode = Some(Results::open(&path)?),
            Question::Needle | Question::Ages | Question::Speed | Question::Decode => {}
            _ => {
                let file = &mut files.windows[question as usize];
                if file.is_none() {
                    *file = Some(Results::open(&path)?);
                }
            }
        }
        let file = ModelFile::open(&self.folders.models.join(experiment.model.file()))
            .context("scripts/fetch-models all brings the models")?;
        let config = Config::read(&file)?;
        let mut tasks = Vec::new();
        for &place in &experiment.places {
            let (_, source) = self.source(experiment, place, &file)?;
            for (choice, named) in experiment.choices.iter().enumerate() {
                let setting = named.setting()?;
                let window = place.window;
                let units: Vec<usize> = match question {
                    Question::Needle => experiment.depths.iter().map(|&d| needle::unit(window, d)).collect(),
                    Question::Ages => {
                        ages::layers(&config, &setting).iter().map(|&l| ages::unit(window, l)).collect()
                    }
                    _ => vec![window],
                };
                let lacks = |unit: &usize| match question {
                    Question::Needle => lacks(files.needle.as_ref(), &setting, &source, *unit),
                    Question::Speed => lacks(files.speed.as_ref(), &setting, &source, *unit),
                    Question::Decode => lacks(files.decode.as_ref(), &setting, &source, *unit),
                    Question::Ages => lacks(files.ages.as_ref(), &setting, &source, *unit),
                    _ => lacks(files.windows[question as usize].as_ref(), &setting, &source, *unit),
                };
                let units: Vec<usize> = units.into_iter().filter(lacks).collect();
                if units.is_empty() {
                    continue;
                }
                // Linear layers take as long as attention to some 8,000 tokens does.
                let tokens = experiment.width as f64;
                let pass = tokens * (1.0 + tokens / 16_384.0) * experiment.model.weight();
                let cost = match question {
                    Question::Ages => 0.5 * pass,
                    Question::Speed | Question::Decode => 0.2 * pass,
                    _ => units.len() as f64 * pass,
                };
                tasks.push(Task { experiment: index, place, choice, units, cost });
            }
        }
        Ok(tasks)
    }
}

fn lacks<M: Measured>(results: Option<&Results<M>>, setting: &Setting, source: &Source, unit: usize) -> bool {
    results.is_none_or(|results| results.find(setting, source, unit).is_empty())
}

fn named(choice: &Choice) -> Result<Named> {
    Ok(Named { name: choice.name.clone(), setting: choice.setting()? })
}

/// One task with everything it needs.
struct Job<'a> {
    sweep: &'a Sweep<'a>,
    experiment: &'a Experiment,
    choice: &'a Named,
    place: Place,
    source: &'a Source,
    windows: &'a Windows,
}

impl Job<'_> {
    fn attention(&self, config: &Config, setting: &Setting) -> Result<Box<dyn Attend>> {
        self.sweep.backend.attention(config, setting, self.experiment.width, self.sweep.chunk)
    }

    fn perplexity(&self, loaded: &Loaded, files: &mut Files, watch: &mut Watch<'_>) -> Result<String> {
        let Some(results) = &mut files.windows[self.experiment.question as usize] else {
            anyhow::bail!("no file for {}", self.experiment.question.name())
        };
        let setting = &self.choice.setting;
        let mut attention = self.attention(loaded.config(), setting)?;
        let steps = setting.pieces(self.experiment.width, self.sweep.chunk).len() * loaded.config().layers;
        let mut step = 0;
        let rows = window_rows(
            loaded,
            attention.as_mut(),
            self.choice,
            self.source,
            (self.windows, self.place.window),
            self.sweep.chunk,
            &mut |_| {
                step += 1;
                watch.at(step as f64 / steps as f64)
            },
        )?;
        let (nll, tokens) = rows
            .iter()
            .map(|row| &row.measured.bucket)
            .fold((0.0, 0), |(nll, tokens), bucket| (nll + bucket.nll, tokens + bucket.tokens));
        let seconds = rows.first().map_or(0.0, |row| row.measured.seconds);
        results.append(rows)?;
        Ok(format!("perplexity {:.3} in {seconds:.1} s", (nll / tokens as f64).exp()))
    }

    fn needle(
        &self,
        loaded: &mut Loaded,
        task: &Task,
        files: &mut Files,
        watch: &mut Watch<'_>,
    ) -> Result<String> {
        let results = files.needle.as_mut().context("no file for needle")?;
        let setting = &self.choice.setting;
        let mut attention = self.attention(loaded.config(), setting)?;
        let layers = loaded.config().layers;
        // Blocks are chosen for a row of the question by what it asks, as when an answer is
        // written: so the question is read token by token where that matters.
        let chooses = (0..layers).any(|layer| setting.content(loaded.config(), layer).is_some());
        let pieces = |prompt: &Prompt| {
            let together = if chooses { prompt.question } else { self.experiment.width };
            let mut pieces = setting.pieces(together, self.sweep.chunk);
            pieces.extend((together..self.experiment.width).map(|token| token..token + 1));
            pieces
        };
        let hay = self.windows.text_tokens(self.place.window);
        let mut right = 0;
        for (index, &unit) in task.units.iter().enumerate() {
            let depth = unit - needle::unit(self.place.window, 0);
            let prompt = Prompt::new(&mut loaded.tokenizer, hay, self.experiment.width, depth, unit as u64)?;
            let at = (self.place.window, depth);
            let pieces = pieces(&prompt);
            let (mut step, steps) = (0, (pieces.len() * layers) as f64);
            let found = needle::evaluate(loaded, attention.as_mut(), &prompt, at, &pieces, &mut |_| {
                step += 1;
                watch.at((index as f64 + f64::from(step) / steps) / task.units.len() as f64)
            })?;
            right += usize::from(found.right);
            results.append(rows(self.choice, self.source, [found]))?;
        }
        Ok(format!("{right} of {} found", task.units.len()))
    }

    /// One dense pass over the window.
    fn record(&self, loaded: &Loaded, layers: &[usize], watch: &mut Watch<'_>) -> Result<Recorder<'static>> {
        let dense = Setting::from_options("")?;
        let mut recorder = Recorder::new(self.attention(loaded.config(), &dense)?, layers);
        let tokens = self.windows.tokens(self.place.window);
        recorder.start(self.place.window as u32);
        for piece in dense.pieces(tokens.len(), self.sweep.chunk) {
            loaded.model.forward(&tokens[piece], &mut recorder, &mut |_| watch.at(0.0))?;
        }
        Ok(recorder)
    }

    fn ages(
        &self,
        loaded: &Loaded,
        recorder: &Recorder<'_>,
        task: &Task,
        files: &mut Files,
    ) -> Result<String> {
        let results = files.ages.as_mut().context("no file for ages")?;
        let window = self.place.window;
        let mut sum = 0.0;
        for (layer, recorded) in recorder.layers() {
            if task.units.contains(&ages::unit(window, layer)) {
                let errors = ages::by_age(loaded.config(), &self.choice.setting, (window, layer), recorded)?;
                sum += errors.first().map_or(0.0, |error| error.whole_error);
                results.append(rows(self.choice, self.source, errors))?;
            }
        }
        Ok(format!("error {:.4} of the output", sum / task.units.len() as f64))
    }
}

/// The folder's path, checked to be there.
///
/// # Errors
/// Names the option and what brings the folder.
pub fn existing(option: &str, path: &Path) -> Result<PathBuf> {
    ensure!(path.is_dir(), "{option}: {} is no folder (scripts/fetch-models all makes it)", path.display());
    Ok(path.to_owned())
}
