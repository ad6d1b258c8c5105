//! `lab passkeys`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use lab::backend::Loaded;
use lab::content::passkeys::{Asked, Reading, Row, is_right_sparsely, rules};
use lab::needle::{DEPTHS, Prompt, unit};
use lab::perplexity::Windows;
use lab::setting::Setting;
use lab::table::{self, Row as _, Table};
use serde_json::json;

use super::{Computing, REVISION, bar, check_stop, load, read_text};

/// Asks for numbers that are hidden in texts, under rules that choose blocks.
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
    let reading = if arguments.sparse { Reading::Sparse } else { Reading::Dense };
    let rules = rules(arguments.width, reading);
    let known: Vec<Row> = table::read(&arguments.results)?;
    let mut table = Table::<Row>::open(&arguments.results)?;
    let backend = arguments.computing.backend.open()?;
    let mut loaded: Loaded = load(&arguments.model)?;
    let name = |path: &std::path::Path| -> Result<String> {
        let name = path.file_name().and_then(|name| name.to_str());
        Ok(name.with_context(|| format!("{}: expected a file's name", path.display()))?.to_owned())
    };
    let model = name(&arguments.model)?;
    let prompts = arguments.texts.len() * arguments.windows * DEPTHS.len();
    let bar = bar((prompts * rules.len()) as u64, "passkeys");
    let mut rows = Vec::new();
    for text in &arguments.texts {
        let ids = loaded.tokenizer.encode(&read_text("--texts", text)?, false)?;
        let windows = Windows::new(ids, &loaded.tokenizer, arguments.width)?;
        let title = name(text)?.trim_end_matches(".txt").to_owned();
        for (window, depth) in (0..arguments.windows).flat_map(|window| DEPTHS.map(|depth| (window, depth))) {
            let seed = unit(window, depth) as u64;
            let (keys, hay) = (usize::from(arguments.keys), windows.text_tokens(window).to_vec());
            let prompt = Prompt::among(&mut loaded.tokenizer, &hay, arguments.width, (depth, keys), seed)?;
            let mut asked = None;
            for rule in &rules {
                let mut row = Row {
                    model: model.clone(),
                    text: title.clone(),
                    window,
                    width: arguments.width,
                    keys,
                    depth,
                    reading,
                    rule: rule.name.clone(),
                    options: rule.options.clone(),
                    right: 0,
                    revision: REVISION.into(),
                };
                bar.set_message(format!("{title} {window}, {depth}%, {}", rule.name));
                if let Some(row) = known.iter().find(|other| other.same(&row)) {
                    rows.push(row.clone());
                    bar.inc(1);
                    continue;
                }
                let setting = Setting::new(rule.setting()?.args(), loaded.config())?;
                let step = &mut |_| check_stop();
                let chunk = arguments.computing.chunk();
                let right = match reading {
                    Reading::Sparse => {
                        let unit = (window, depth);
                        is_right_sparsely(&loaded, &backend, &prompt, &setting, unit, chunk, step)?
                    }
                    Reading::Dense => {
                        let asked = match &asked {
                            Some(asked) => asked,
                            None => asked.insert(Asked::read(&loaded, &backend, &prompt, chunk, step)?),
                        };
                        asked.is_right(&loaded, &setting, seed as u32, step)?
                    }
                };
                row.right = u8::from(right);
                table.put(row.clone())?;
                rows.push(row);
                bar.inc(1);
            }
        }
    }
    bar.finish_and_clear();
    let found = |rule: &str| rows.iter().filter(|row| row.rule == rule && row.right == 1).count();
    if arguments.computing.json {
        let object = json!({
            "backend": backend.name(),
            "adapter": backend.adapter(),
            "driver": backend.driver(),
            "results": arguments.results.display().to_string(),
            "prompts": prompts,
            "rows": rows,
        });
        println!("{}", serde_json::to_string_pretty(&object)?);
        return Ok(());
    }
    for rule in &rules {
        println!("{:3} of {prompts}: {} ({})", found(&rule.name), rule.name, rule.options);
    }
    Ok(())
}
