//! What prflash's kernels become on AMD GPUs, counted without a GPU: `scripts/isa` runs it.
//!
//! RADV, Mesa's Vulkan driver, can compile for a chip that isn't there ([`null_device`]). Each
//! kernel goes through naga with the options that wgpu would give it ([`spirv`]); the driver says
//! how many registers it takes and prints the machine code, of which the loop over keys is found
//! and counted ([`assembly`]). What plans choose on GPUs has limits in `budget.json` ([`budget`]).
//!
//! # What is counted
//!
//! All instructions of a key block of 64 keys: the unmasked step over `keys` of them as often as
//! the block has steps, and once what comes around. Of the paths through a loop the one with the
//! most multiply-adds counts, then the shortest: so the step without a mask, scores without a soft
//! cap, and all blocks rather than a list of them. An inner loop that fills workgroup memory turns
//! as often as it takes to fill it; one with multiply-adds as often as the kernel's source says;
//! any other counts once.
//!
//! * `fma_share`: multiply-adds among *all* instructions, those that only order others (waits,
//!   `s_delay_alu`) included. Each half of a dual-issue instruction is one.
//! * `vector_share`: multiply-adds among the vector instructions, transcendental ones four times:
//!   the share of peak if all else overlaps with other waves. Between these two lies what a kernel
//!   may reach when nothing waits for memory. They are static estimates: good for comparing, and no
//!   measurement.
//! * `useful_share`: as the first, of the 2·D multiply-adds per row and key that attention takes.
//!   Compilers write other things as multiply-adds, too.
//! * `bytes_per_flop`: what a wave asks of memory and caches, for two operations of each
//!   multiply-add. Each spilled register that is loaded again counts.
//!
//! # What isn't
//!
//! Latencies, caches, clocks, conflicts of banks, and how a chip hides one wave's waits behind
//! another's work. On RDNA3 a wave of 64 may issue both of its halves at once: the text doesn't
//! show it. Paths that have more multiply-adds than the usual one (a bias that is evaluated in
//! full) are taken for the usual one.

mod assembly;
mod budget;
mod null_device;
mod row;
mod spirv;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use prflash::shaders::{self, Candidate};
use serde::Serialize;
use testkit::files::write;

use budget::Budget;
use null_device::NullDevice;
use row::Row;
use spirv::Checks;

/// Compiles prflash's kernels for AMD GPUs without one, counts the instructions of their loops over
/// keys, and compares with the committed limits.
///
/// Families are those of RADV: navi31 (RDNA3), navi21 (RDNA2), vega10 (GCN). Rows marked * are what
/// plans choose on GPUs; those have limits.
#[derive(Parser)]
#[command(name = "scripts/isa", after_help = EXITS)]
struct Args {
    /// GPUs to compile for
    #[arg(long, value_delimiter = ',', value_parser = FAMILIES, default_values = USUAL)]
    family: Vec<String>,
    /// Only kernels whose name contains this; of all, not only of those that plans choose
    #[arg(long, value_name = "TEXT")]
    variant: Option<String>,
    /// Other tile shapes, too (minutes)
    #[arg(long)]
    all: bool,
    /// Shaders without wgpu's checks (`ContextOptions::trusted_shaders`); limits are for shaders
    /// with them
    #[arg(long)]
    trusted: bool,
    /// Lanes of a wave to insist on (32, 64), which wgpu can't; limits are for the driver's choice
    #[arg(long, value_name = "LANES")]
    wave: Option<u32>,
    /// A device without robust buffer access, which wgpu never opens: to see what it costs
    #[arg(long)]
    no_robust: bool,
    /// A WGSL file in place of the text of the one kernel that --variant names: to try a change out
    #[arg(long, value_name = "FILE", requires = "variant")]
    wgsl: Option<PathBuf>,
    /// Leave the WGSL of each kernel in OUT, to start from with --wgsl
    #[arg(long)]
    sources: bool,
    /// Leave the machine code of each kernel in OUT
    #[arg(long)]
    asm: bool,
    /// Print JSON instead of the table
    #[arg(long)]
    json: bool,
    /// Make what is measured the new limits; of all that plans choose, the table goes to README.md
    /// beside them
    #[arg(long, conflicts_with_all = ["trusted", "wave", "no_robust", "wgsl"])]
    update: bool,
    /// The file with the limits
    #[arg(long, value_name = "FILE", default_value = "isa/budget.json")]
    budget: PathBuf,
    /// Where isa.json (the rows with all counts), FAMILY/VARIANT.s and VARIANT.wgsl go
    #[arg(long, value_name = "DIR", default_value = "target/isa")]
    out: PathBuf,
}

/// RADV knows more, and ends the program at a name that it doesn't know.
const FAMILIES: [&str; 6] = ["navi31", "navi21", "vega10", "gfx1201", "vangogh", "polaris10"];

/// The families for which there are limits.
const USUAL: [&str; 3] = ["navi31", "navi21", "vega10"];

const EXITS: &str = "exit status: 0 nothing is worse than its limits, 1 something is, or limits are out of date: much looser \
than what is counted, or of a kernel that no plan chooses (named on stderr), \
2 it could not be measured (no driver, no network to fetch it, a kernel that doesn't compile), 64 wrong use";

#[derive(Serialize)]
struct Report<'a> {
    driver: &'a str,
    trusted: bool,
    robust: bool,
    rows: &'a [Row],
    skipped: &'a [String],
    worse: &'a [String],
    stale: &'a [String],
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 64 } else { 0 });
        }
    };
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("isa: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether everything is within its limits, and these are of today.
fn run(args: &Args) -> Result<bool> {
    let candidates = candidates(args)?;
    let checks = if args.trusted { Checks::Trusted } else { Checks::Checked };
    let (mut rows, mut skipped, mut driver) = (Vec::new(), Vec::new(), String::new());
    for family in &args.family {
        let device = NullDevice::open(family, !args.no_robust)?;
        driver.clone_from(&device.driver);
        for (at, candidate) in candidates.iter().enumerate() {
            let name = &candidate.source.name;
            eprintln!("isa: {family} {} of {}: {name}", at + 1, candidates.len());
            if let Some(lack) = device.lacks(&candidate.source.wgsl) {
                skipped.push(format!("SKIPPED {name} on {family}: the family has no {lack}"));
                continue;
            }
            let (row, assembly) = row::measure(&device, family, candidate, checks, args.wave)
                .with_context(|| format!("{name} on {family}"))?;
            if args.asm {
                write(&args.out.join(family).join(format!("{name}.s")), &assembly)?;
            }
            rows.push(row);
        }
    }
    for skip in &skipped {
        eprintln!("isa: {skip}");
    }

    // What limits are for.
    let usual = !args.trusted && !args.no_robust && args.wave.is_none() && args.wgsl.is_none();
    let limited: Vec<Row> = rows.iter().filter(|row| USUAL.contains(&row.family.as_str())).cloned().collect();
    let complete = args.variant.is_none() && usual && args.family == USUAL;
    let (mut worse, mut stale) = (Vec::new(), Vec::new());
    if args.update {
        let old = Budget::read(&args.budget).unwrap_or_default();
        write(&args.budget, &old.updated(&limited, &driver, complete).text()?)?;
        if complete {
            write(&args.budget.with_file_name("README.md"), readme(&limited, &driver))?;
        }
    } else if usual {
        let budget = Budget::read(&args.budget)?;
        worse = budget.check(&limited);
        stale = budget.stale(&limited, complete);
        if !(worse.is_empty() && stale.is_empty()) && budget.driver != driver {
            eprintln!("isa: the limits are from {}, this is {driver}", budget.driver);
        }
    }
    let report = Report {
        driver: &driver,
        trusted: args.trusted,
        robust: !args.no_robust,
        rows: &rows,
        skipped: &skipped,
        worse: &worse,
        stale: &stale,
    };
    let json = serde_json::to_string_pretty(&report)? + "\n";
    write(&args.out.join("isa.json"), &json)?;
    let text = if args.json { json } else { table(&rows) };
    // Whoever reads may have read enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    for worse in &worse {
        eprintln!("isa: worse: {worse}");
    }
    for stale in &stale {
        eprintln!("isa: out of date: {stale}");
    }
    let good = worse.is_empty() && stale.is_empty();
    if !good {
        eprintln!("isa: if that is meant: scripts/isa --update");
    }
    Ok(good)
}

fn candidates(args: &Args) -> Result<Vec<Candidate>> {
    let named = |candidate: &Candidate| match &args.variant {
        Some(text) => candidate.source.name.contains(text.as_str()),
        None => args.all || candidate.chosen,
    };
    let mut candidates: Vec<Candidate> = shaders::candidates().into_iter().filter(named).collect();
    ensure!(!candidates.is_empty(), "no kernel has this in its name: {:?}", args.variant);
    if let Some(path) = &args.wgsl {
        ensure!(candidates.len() == 1, "--wgsl is for one kernel, --variant names {}", candidates.len());
        candidates[0].source.wgsl =
            std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
    }
    if args.sources {
        for candidate in &candidates {
            write(&args.out.join(format!("{}.wgsl", candidate.source.name)), &candidate.source.wgsl)?;
        }
    }
    Ok(candidates)
}

/// The page with the table, which nothing else writes.
fn readme(rows: &[Row], driver: &str) -> String {
    format!(
        "# What the kernels become on AMD GPUs\n\n\
         Written by `scripts/isa --update`, with the limits in `budget.json`, from {driver}: by\n\
         the null device of RADV, which compiles for chips that aren't there. navi31 is RDNA3, navi21\n\
         RDNA2, vega10 GCN. The kernels are those that plans choose on GPUs, with wgpu's checks and robust\n\
         buffer access.\n\n\
         Static counts, good for comparing kernels and for finding spills, and not measured times.\n\
         Instructions are counted over a key block of 64 keys, unmasked; `src/main.rs` says how. *FMA*: the\n\
         share of multiply-adds among all instructions; *of it useful*: of the multiply-adds that attention\n\
         takes; *of vector*: among the vector unit's time, the share of peak where all else overlaps.\n\n{}",
        table(rows).replace(" * |", " |")
    )
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| family | kernel | wave | VGPRs | spills | waves | LDS | FMA | of it useful | of vector | matrix | per key | bytes/FLOP |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        let Row { family, variant, wave, vgprs, spills, waves, lds, .. } = row;
        let spills = match row.scalar_spills {
            0 => spills.to_string(),
            scalar => format!("{spills} + {scalar} scalar"),
        };
        let mark = if row.chosen { " *" } else { "" };
        text += &format!("| {family} | {variant}{mark} | {wave} | {vgprs} | {spills} | {waves} | {lds} | ");
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        if row.key_loop {
            let matrix = if row.wmma_share > 0.0 { percent(row.wmma_share) } else { "–".to_owned() };
            text += &format!(
                "{} | {} | {} | {matrix} | {:.0} | {:.3} |\n",
                percent(row.fma_share),
                percent(row.useful_share),
                percent(row.vector_share),
                row.per_key,
                row.bytes_per_flop
            );
        } else {
            text += &format!("– | – | – | – | {:.0} in all | – |\n", row.counts.instructions());
        }
    }
    text
}
