//! `lab passkeys`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use indicatif::ProgressBar;
use lab::backend::{Backend, Loaded};
use lab::content::passkeys::{Asked, Reading, Row, is_right_sparsely, rules};
use lab::content::rules::Rule;
use lab::needle::{DEPTHS, Prompt, unit};
use lab::perplexity::Windows;
use lab::setting::Setting;
use lab::staircase;
use lab::table::{self, Row as _, Table};
use serde_json::json;

use super::{Computing, REVISION, bar, check_stop, load, read_text};

/// Asks for numbers that are hidden in texts, under rules that choose blocks or behind caches.
#[derive(clap::Args)]
pub struct Args {
    /// A GGUF file (scripts/fetch-models brings two)
    #[arg(long, default_value = "target/models/SmolLM2-135M-Instruct.Q4_1.gguf")]
    model: PathBuf,
    /// UTF-8 texts
    #[arg(
        long,
        value_delimiter = ',',
        default_values = [
            "target/texts/mansfield-park.txt",
            "target/texts/bible.txt",
            "target/texts/shakespeare.txt",
            "target/texts/faq.txt",
        ]
    )]
    texts: Vec<PathBuf>,
    /// How many windows of each text, each with a prompt for every depth
    #[arg(long, default_value_t = 2)]
    windows: usize,
    /// How many tokens a prompt has
    #[arg(long, default_value_t = 2048)]
    width: usize,
    /// How many passkeys are hidden in each prompt; one of them is asked for
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=4))]
    keys: u8,
    /// Read all of the prompt under the rules, and not only question and answer
    #[arg(long)]
    sparse: bool,
    /// Keep the text in caches of few bits, in place of rules that choose blocks
    #[arg(long, conflicts_with = "sparse")]
    caches: bool,
    /// The file of results; what it has already isn't computed again
    #[arg(long, default_value = "lab/results/passkeys.csv")]
    results: PathBuf,
    #[command(flatten)]
    computing: Computing,
}

/// Asks prompt after prompt.
///
/// # Errors
/// Options, files and devices that don't do, by name; Ctrl-C.
pub fn run(arguments: &Args) -> Result<()> {
    let reading = match (arguments.sparse, arguments.caches) {
        (true, _) => Reading::Sparse,
        (_, true) => Reading::Cached,
        _ => Reading::Dense,
    };
    let rules = rules(arguments.width, reading);
    let backend = arguments.computing.backend.open()?;
    let mut loaded = load(&arguments.model)?;
    let mut asking = Asking {
        arguments,
        reading,
        rules: &rules,
        model: name(&arguments.model)?,
        known: table::read(&arguments.results)?,
        table: Table::open(&arguments.results)?,
        bar: bar((prompts(arguments) * rules.len()) as u64, "passkeys"),
    };
    let mut rows = Vec::new();
    for path in &arguments.texts {
        let text = name(path)?.trim_end_matches(".txt").to_owned();
        let ids = loaded.tokenizer.encode(&read_text("--texts", path)?, false)?;
        let windows = Windows::new(ids, &loaded.tokenizer, arguments.width)?;
        ensure!(
            arguments.windows <= windows.count(),
            "{}: {} windows of {} tokens, --windows {}",
            path.display(),
            windows.count(),
            arguments.width,
            arguments.windows
        );
        for (window, depth) in (0..arguments.windows).flat_map(|window| DEPTHS.map(|depth| (window, depth))) {
            let (seed, keys) = (unit(window, depth) as u64, usize::from(arguments.keys));
            let hay = windows.text_tokens(window);
            let prompt = Prompt::among(&mut loaded.tokenizer, hay, arguments.width, (depth, keys), seed)?;
            rows.extend(asking.prompt(&loaded, &backend, &prompt, (&text, window, depth))?);
        }
    }
    asking.bar.finish_and_clear();
    if arguments.computing.json {
        let object = json!({
            "backend": backend.name(),
            "adapter": backend.adapter(),
            "driver": backend.driver(),
            "results": arguments.results.display().to_string(),
            "prompts": prompts(arguments),
            "rows": rows,
        });
        println!("{}", serde_json::to_string_pretty(&object)?);
        return Ok(());
    }
    for rule in &rules {
        let found = rows.iter().filter(|row| row.rule == rule.name && row.right == 1).count();
        println!("{found:3} of {}: {} ({})", prompts(arguments), rule.name, rule.options);
    }
    Ok(())
}

fn prompts(arguments: &Args) -> usize {
    arguments.texts.len() * arguments.windows * DEPTHS.len()
}

fn name(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    Ok(name.with_context(|| format!("{}: expected a file's name", path.display()))?.to_owned())
}

/// What all prompts have in common.
struct Asking<'a> {
    arguments: &'a Args,
    reading: Reading,
    rules: &'a [Rule],
    model: String,
    /// The rows that were there before.
    known: Vec<Row>,
    table: Table<Row>,
    bar: ProgressBar,
}

impl Asking<'_> {
    /// Asks one prompt under every rule that its file of results lacks.
    fn prompt(
        &mut self,
        loaded: &Loaded,
        backend: &Backend,
        prompt: &Prompt,
        (text, window, depth): (&str, usize, usize),
    ) -> Result<Vec<Row>> {
        let chunk = self.arguments.computing.chunk();
        let step = &mut |_| check_stop();
        let (mut rows, mut asked) = (Vec::new(), None);
        for rule in self.rules {
            self.bar.set_message(format!("{text} {window}, {depth}%, {}", rule.name));
            let mut row = Row {
                model: self.model.clone(),
                text: text.to_owned(),
                window,
                width: self.arguments.width,
                keys: self.arguments.keys.into(),
                depth,
                reading: self.reading,
                rule: rule.name.clone(),
                options: rule.options.clone(),
                right: 0,
                revision: REVISION.into(),
            };
            if let Some(known) = self.known.iter().find(|other| other.same(&row)) {
                rows.push(known.clone());
                self.bar.inc(1);
                continue;
            }
            let setting = || Setting::new(rule.setting()?.args(), loaded.config());
            let right = if self.reading == Reading::Sparse {
                is_right_sparsely(loaded, backend, prompt, &setting()?, (window, depth), chunk, step)?
            } else {
                let asked = match &asked {
                    Some(asked) => asked,
                    None => asked.insert(Asked::read(loaded, backend, prompt, chunk, step)?),
                };
                if self.reading == Reading::Cached && !rule.options.is_empty() {
                    asked.is_right_behind(loaded, &staircase::parse(&rule.options)?, step)?
                } else {
                    asked.is_right(loaded, &setting()?, unit(window, depth) as u32, step)?
                }
            };
            row.right = u8::from(right);
            self.table.put(row.clone())?;
            rows.push(row);
            self.bar.inc(1);
        }
        Ok(rows)
    }
}
