//! `lab search table`: methods compared on the scores of trainings that are there.

use std::path::PathBuf;
use std::process::Command as Process;

use anyhow::{Context as _, Result, ensure};
use lab::search::contenders::Contender;
use lab::search::peers;
use lab::search::replay::regrets;
use lab::search::rows::{MARKS, Of, Replayed, Row, check, put};
use lab::search::surrogate::{Fit, Surrogate};
use lab::search::table::Table;
use serde_json::json;
use testkit::statistics::{median, range};

use crate::commands::{REVISION, bar, busy, check_stop};

/// The script that runs another program.
const PEERS: &str = "scripts/search-peers";

#[derive(clap::Args)]
pub struct Args {
    /// The tables to search
    #[arg(long, value_delimiter = ',', default_values = ["wordsim", "both", "simlex"])]
    names: Vec<String>,
    /// The folder of the tables
    #[arg(long, default_value = "lab/tables")]
    tables: PathBuf,
    /// How many searches each method does, each by another seed
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u64).range(2..))]
    seeds: u64,
    /// Run also optuna on the same scores (scripts/search-peers; Python, downloads)
    #[arg(long)]
    peers: bool,
    /// The folder for the scores of all points, which another program searches
    #[arg(long, default_value = "target/search")]
    folder: PathBuf,
    /// The file of results, in which rows of these tables are renewed; refused where it has more
    /// seeds of one
    #[arg(long, default_value = "lab/results/search.csv")]
    results: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Compares and writes down.
///
/// # Errors
/// Files that don't do, by name; another program that fails; Ctrl-C.
pub fn run(arguments: &Args) -> Result<()> {
    for name in &arguments.names {
        check(&arguments.results, name, arguments.seeds as usize)?;
    }
    let mut rows = Vec::new();
    for name in &arguments.names {
        rows.extend(compare(arguments, name)?);
    }
    put(&arguments.results, &rows)?;
    let results = arguments.results.display().to_string();
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&json!({ "results": results, "rows": rows }))?);
        return Ok(());
    }
    for name in &arguments.names {
        let here: Vec<&Row> = rows.iter().filter(|row| row.table == *name).collect();
        print(name, &here);
    }
    println!("\n{} rows in {results}; `lab report` writes them down", rows.len());
    Ok(())
}

fn compare(arguments: &Args, name: &str) -> Result<Vec<Row>> {
    let table = Table::read(&arguments.tables, name)?;
    let fitting = busy(&format!("{name}: fitting the surrogate"));
    let surrogate = Surrogate::new(&table)?;
    fitting.finish_and_clear();
    let Fit { scores, r2, spearman, rmse, noise, lengths } = surrogate.fit();
    let named = table.space.parameters().iter().zip(lengths);
    let lengths: Vec<String> =
        named.map(|(parameter, length)| format!("{} {length:.1}", parameter.name())).collect();
    eprintln!(
        "{name}: {scores} scores of {} points, {:.0} s of training; each by the others: R² {r2:.3}, Spearman \
         {spearman:.3}, RMSE {rmse:.4} (assumed noise {noise:.4}); lengths: {}",
        table.space.points(),
        table.cpu_seconds,
        lengths.join(", ")
    );
    peers::export(&arguments.folder.join(format!("{name}.json")), name, &surrogate)?;
    let of_peers = arguments.tables.join(format!("{name}.peers.csv"));
    if arguments.peers {
        let mut process = Process::new(PEERS);
        process.arg(name).arg("--folder").arg(&arguments.folder).arg("--out").arg(&arguments.tables);
        let status = process.status().with_context(|| format!("--peers: running {PEERS}"))?;
        check_stop()?;
        ensure!(status.success(), "--peers: {PEERS} failed; what it says is above");
    }
    let bar = bar(arguments.seeds * Contender::OF_TABLES.len() as u64, name);
    let mut all = Vec::new();
    for contender in Contender::OF_TABLES {
        bar.set_message(format!("{name}: {}", contender.name()));
        let mut each_seed = Vec::new();
        for seed in 0..arguments.seeds {
            check_stop()?;
            let each = regrets(&surrogate, contender.method()?, seed, MARKS[MARKS.len() - 1])?;
            each_seed.push(MARKS.iter().map(|&mark| each[mark - 1]).collect());
            bar.inc(1);
        }
        let program = format!("prflash {}", env!("CARGO_PKG_VERSION"));
        all.push(Replayed { method: contender.name().into(), program, regrets: each_seed });
    }
    bar.finish_and_clear();
    all.extend(peers::read(&of_peers, &surrogate)?);
    let of = Of {
        table: name,
        points: surrogate.scores().len(),
        fit: surrogate.fit(),
        largest: range(surrogate.scores()).1,
        middle: median(surrogate.scores()),
        revision: REVISION,
    };
    Ok(of.rows(&all))
}

fn print(name: &str, rows: &[&Row]) {
    let marks: Vec<String> = MARKS.iter().map(|mark| format!("{mark:>18}")).collect();
    println!("\n{name}: mean regret ± standard error after so many trials; below, what it has more than TPE");
    println!("{:24}{}", "", marks.concat());
    for row in rows.iter().filter(|row| row.trials == MARKS[0]) {
        let here: Vec<&&Row> = rows.iter().filter(|other| other.method == row.method).collect();
        let cells: Vec<String> =
            here.iter().map(|row| format!("{:9.4} ± {:.4}", row.mean, row.error)).collect();
        println!("{:24}{}", row.method, cells.concat());
        let over = |row: &&&Row| Some(format!("{:+9.4} ± {:.4}", row.over_tpe?, row.over_tpe_error?));
        let cells: Vec<String> = here.iter().filter_map(over).collect();
        if !cells.is_empty() && row.method != "TPE" {
            println!("{:24}{}", "", cells.concat());
        }
    }
}
