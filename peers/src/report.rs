//! `BENCHMARKS.md` and `docs/benchmarks.json`.

use std::fmt::Write as _;

use serde_json::{Value, json};
use testkit::statistics::{median, range, ratios};

use crate::compare::{Comparison, Held, NativeGrowth, PEERS, TOLERANCE};
use crate::measure::Contestant;
use crate::scaling::{FIT_FROM, Fit, Growth, Point};

/// The machine that was measured on.
pub struct Machine {
    /// Adapter, API, driver.
    pub device: String,
    /// The adapter's name alone.
    pub adapter: String,
    /// What burn calls the device that it opened, if it takes part.
    pub burn_device: Option<String>,
    /// The version of torch, if it takes part, and else why not.
    pub torch: Option<String>,
    pub torch_absent: Option<String>,
    /// FLOP a second of one thread and of all, in registers alone.
    pub peaks: [f64; 2],
    pub software: bool,
    /// Model, where the system says it.
    pub cpu: Option<String>,
    pub threads: usize,
}

/// Everything that was measured.
pub struct Record {
    pub machine: Machine,
    pub comparisons: Vec<Comparison>,
    pub growth: Growth,
    pub native_growth: NativeGrowth,
    pub fit: Fit,
    /// How the program was called, after its name.
    pub options: String,
}

/// The version of a package in this program's lock file.
fn version(package: &str) -> &'static str {
    let lock = include_str!("../Cargo.lock");
    let entry = lock.split("[[package]]").find(|entry| entry.contains(&format!("\nname = \"{package}\"\n")));
    let line = entry.and_then(|entry| entry.lines().find_map(|line| line.strip_prefix("version = \"")));
    line.map_or("?", |line| line.trim_end_matches('"'))
}

fn milliseconds(seconds: f64) -> String {
    match seconds * 1e3 {
        ms if ms < 1.0 => format!("{ms:.2}"),
        ms if ms < 100.0 => format!("{ms:.1}"),
        ms => format!("{ms:.0}"),
    }
}

fn spread(seconds: &[f64]) -> String {
    let (least, most) = range(seconds);
    format!("{} ({} to {})", milliseconds(median(seconds)), milliseconds(least), milliseconds(most))
}

/// Times as long as ours: the median within rounds, and the range.
fn times(contestant: &Contestant, ours: &Contestant) -> Option<String> {
    if !contestant.ran() || !ours.ran() {
        return None;
    }
    let ratios = ratios(&contestant.seconds, &ours.seconds);
    let (least, most) = range(&ratios);
    Some(format!("{} ({} to {})", ratio(median(&ratios)), ratio(least), ratio(most)))
}

fn ratio(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.1}") }
}

/// `8.3×`, for the table of the README.
fn headline(contestant: &Contestant, ours: &Contestant) -> String {
    match contestant.ran() && ours.ran() {
        false => "–".to_owned(),
        true => format!("{:.1}×", median(&ratios(&contestant.seconds, &ours.seconds))),
    }
}

impl Record {
    /// The table of headline ratios, also for the README.
    pub fn headlines(&self) -> String {
        let mut text =
            "| | prflash, ms | burn, ms | candle (CPU), ms | burn / prflash | candle / prflash | native (CPU), ms | torch (CPU), ms | torch / native | candle / native |\n\
                        | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
                .to_owned();
        for comparison in &self.comparisons {
            let [ours, burn, candle] = [0, 1, 2].map(|index| &comparison.contestants[index]);
            let [native, torch] = [0, 1].map(|at| &comparison.contestants[comparison.cores[at]]);
            let time = |contestant: &Contestant| match (&contestant.absent, contestant.ran()) {
                (Some(_), _) => "–".to_owned(),
                (None, false) => "failed".to_owned(),
                (None, true) => milliseconds(median(&contestant.seconds)),
            };
            let _ = writeln!(
                text,
                "| {} {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                comparison.problem.name,
                comparison.problem.describe(),
                time(ours),
                time(burn),
                time(candle),
                headline(burn, ours),
                headline(candle, ours),
                time(native),
                time(torch),
                headline(torch, native),
                headline(candle, native),
            );
        }
        text
    }

    /// Peers that were faster than ours somewhere.
    fn losses(&self) -> Vec<String> {
        let of = |comparison: &Comparison| {
            let ours = comparison.contestants[0].seconds.clone();
            let torch = &comparison.contestants[comparison.cores[1]];
            let peers = comparison.contestants[1..PEERS].iter().chain([torch]).filter(|peer| peer.ran());
            let faster = peers.filter(move |peer| median(&ratios(&peer.seconds, &ours)) < 1.0);
            faster.map(|peer| format!("{} at {}", peer.name, comparison.problem.name)).collect::<Vec<_>>()
        };
        self.comparisons.iter().flat_map(of).collect()
    }

    /// Contestants that failed or were wrong.
    pub fn failures(&self) -> Vec<String> {
        let of = |comparison: &Comparison| {
            let failed = |one: &Contestant| {
                Some(format!("{} at {}: {}", one.name, comparison.problem.name, one.failed.as_deref()?))
            };
            comparison.contestants.iter().filter_map(failed).collect::<Vec<_>>()
        };
        let ended = self.growth.ended.iter().map(|why| format!("growth ended {why}"));
        self.comparisons.iter().flat_map(of).chain(ended).collect()
    }

    /// `BENCHMARKS.md`.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        self.introduction(&mut text);
        self.peers(&mut text);
        self.cores(&mut text);
        self.staircase(&mut text);
        self.scaling(&mut text);
        self.again(&mut text);
        text
    }

    fn introduction(&self, text: &mut String) {
        let Machine { device, burn_device, software, cpu, threads, torch, torch_absent, .. } = &self.machine;
        let burn = match burn_device {
            Some(opened) => format!("burn opened \"{opened}\"."),
            None => "burn was left out of this run.".to_owned(),
        };
        let torch = match (torch, torch_absent) {
            (Some(version), _) => format!("torch is {version}."),
            (None, why) => {
                format!("torch took no part ({}).", one_line(why.as_deref().unwrap_or("it wasn't asked")))
            }
        };
        let cpu = cpu.as_deref().unwrap_or("a CPU that doesn't say its name");
        let _ = write!(
            text,
            "# Benchmarks\n\n\
             prflash beside the attention of [burn](https://burn.dev) {} on wgpu, of [candle](https://github.com/huggingface/candle) {} and of [torch](https://pytorch.org) on the CPU, and how PrFlashAttention's time \
             grows with the sequence. This whole file is written by one command:\n\n\
             ```sh\nscripts/benchmarks{}\n```\n\n\
             Every round of every figure is in [docs/benchmarks.json](docs/benchmarks.json).\n\n\
             ## On what, and how\n\n\
             - **Device**: {device}. {burn} CPU: {cpu}, {threads} threads. {torch}\n",
            version("burn"),
            version("candle-core"),
            self.options,
        );
        if *software {
            text.push_str(
                "- **This is a software GPU**: compute shaders run on the cores above. The absolute times say nothing about a GPU, and ratios between GPU \
                 programs may be others there.\n",
            );
        }
        let _ = write!(
            text,
            "- **Time**: wall time on the host from the call until the result is complete on the device (ours: recording, submitting and waiting; burn: `attention` and \
             `Device::sync`; the native engine and candle: the call; torch: the call, by a clock in its own process). Nothing is uploaded, read back, compiled or tuned in it. prflash writes into an output that is there already, the others allocate theirs.\n\
             - **Rounds**: everything in a table runs in turn within a round, in rotating order. Times are medians over rounds with their range, ratios are medians (and ranges) of the ratios \
             *within* a round.\n\
             - **FLOPs** of causal attention: 4·H·(N²/2)·D; of a step of decoding: 4·H·kv_len·D. *Effective* counts what was visited, *equivalent* what dense attention would have.\n\
             - **Right before fast**: before timing, every result is compared with 24 rows computed in f64 on the host, and with prflash's whole output; more than {TOLERANCE:.0e} \
             apart (inputs have unit variance) is a failure, and isn't timed.\n\
             - **burn**: default features, autotune and fusion on, warm until its times settle. Its attention knows no shared key/value heads, so K and V are repeated for every query head \
             before the call; for one query the heads of a group may instead be rows of one head. It is tuned anew in every run (`CUBECL_AUTOTUNE_CACHE=false`). **candle**: default features, rayon on all threads, the mask made before the call. Of the ways that a user has, the fastest one takes part; \
             the list is below.\n\n",
        );
    }

    fn peers(&self, text: &mut String) {
        let _ = write!(
            text,
            "## Beside the peers\n\n{}\n![Speed of burn and candle beside prflash](docs/images/peers.svg)\n\n",
            self.headlines()
        );
        text.push_str("Higher is faster; lines are ranges over rounds. ");
        match self.losses().as_slice() {
            [] => text.push_str("In no row a peer was faster than prflash."),
            losses => {
                let _ = write!(text, "**Faster than prflash**: {}.", losses.join(", "));
            }
        }
        if self.machine.software {
            text.push_str(" Who has only a CPU takes the native engine, which is in its own section below.");
        }
        text.push_str(
            "\n\n| | | ms: median (range) | GFLOP/s | times prflash (range) | rounds | from exact rows | how |\n\
             | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |\n",
        );
        for comparison in &self.comparisons {
            for one in &comparison.contestants[..PEERS] {
                let name = comparison.problem.name;
                if let Some(why) = not_timed(one) {
                    let how = one_line(&one.how);
                    let _ = writeln!(text, "| {name} | {} | {why} | | | | | {how} |", one.name);
                    continue;
                }
                let _ = writeln!(
                    text,
                    "| {name} | {} | {} | {:.1} | {} | {} | {:.1e} | {} |",
                    one.name,
                    spread(&one.seconds),
                    comparison.problem.flops() / median(&one.seconds) / 1e9,
                    times(one, &comparison.contestants[0]).unwrap_or_default(),
                    one.seconds.len(),
                    one.from_exact.unwrap_or(f64::NAN),
                    one_line(&one.how),
                );
            }
        }
        text.push_str("\nThe ways that were tried, one warm call each, ms:\n\n| | |");
        let shapes = || self.comparisons.iter().map(|comparison| comparison.problem.name);
        for name in shapes() {
            let _ = write!(text, " {name} |");
        }
        text.push_str("\n| --- | --- |");
        shapes().for_each(|_| text.push_str(" ---: |"));
        text.push('\n');
        let mut ways: Vec<(&str, &str)> = Vec::new();
        for trial in self.comparisons.iter().flat_map(|comparison| &comparison.trials) {
            if !ways.contains(&(&trial.name, &trial.how)) {
                ways.push((&trial.name, &trial.how));
            }
        }
        ways.sort_by_key(|way| way.0);
        for (name, how) in ways {
            let _ = write!(text, "| {name} | {how} |");
            for comparison in &self.comparisons {
                let trial = comparison
                    .trials
                    .iter()
                    .find(|trial| (trial.name.as_str(), trial.how.as_str()) == (name, how));
                let cell = trial.map_or("–".to_owned(), |trial| match (trial.seconds, &trial.failed) {
                    (Some(seconds), _) => milliseconds(seconds),
                    (None, why) => format!("failed: {}", one_line(why.as_deref().unwrap_or("?"))),
                });
                let _ = write!(text, " {cell} |");
            }
            text.push('\n');
        }
        text.push('\n');
    }

    /// The native engine beside torch and candle.
    fn cores(&self, text: &mut String) {
        let [one, all] = self.machine.peaks.map(|peak| peak / 1e9);
        let instructions = self.comparisons.first().map_or("", |first| first.instructions.as_str());
        let _ = write!(
            text,
            "## On CPU cores\n\n\
             The native engine (`Attention::plan_native`, instructions {instructions}) beside torch's `scaled_dot_product_attention` and candle, on all threads and on one, in the same rounds as the \
             tables above. *Peak*: {one:.0} GFLOP/s of one thread and {all:.0} of all, measured by fused multiplications and additions in registers alone, before the rounds. *CPU time* is that of all cores together: \
             where another program takes cores away, its ratios say more than the clock's. Both ratios are to the native engine on as many threads.\n\n\
             | | | ms: median (range) | GFLOP/s | of peak | times native (range) | by CPU time | rounds | from exact rows | how |\n\
             | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n"
        );
        for comparison in &self.comparisons {
            let name = comparison.problem.name;
            let [native, torch, native_one, torch_one] =
                comparison.cores.map(|at| &comparison.contestants[at]);
            let candle = &comparison.contestants[2];
            for (contestant, base, peak) in [
                (native, native, all),
                (torch, native, all),
                (candle, native, all),
                (native_one, native_one, one),
                (torch_one, native_one, one),
            ] {
                if let Some(why) = not_timed(contestant) {
                    let _ = writeln!(text, "| {name} | {} | {why} | | | | | | | |", contestant.name);
                    continue;
                }
                let gflops = comparison.problem.flops() / median(&contestant.seconds) / 1e9;
                let _ = writeln!(
                    text,
                    "| {name} | {} | {} | {gflops:.1} | {:.0}% | {} | {} | {} | {:.1e} | {} |",
                    contestant.name,
                    spread(&contestant.seconds),
                    100.0 * gflops / peak,
                    times(contestant, base).unwrap_or_default(),
                    ratio(median(&ratios(&contestant.cpu_seconds, &base.cpu_seconds))),
                    contestant.seconds.len(),
                    contestant.from_exact.unwrap_or(f64::NAN),
                    one_line(&contestant.how),
                );
            }
        }
        for comparison in self.comparisons.iter().filter(|comparison| !comparison.native_held.is_empty()) {
            let torch = &comparison.contestants[comparison.cores[1]];
            let _ = write!(
                text,
                "\nA step of decoding at {} with the history held in several ways, by the native engine on all threads:\n\n\
                 | history | MB of keys and values | ms: median (range) | times torch, f32 (range) | difference |\n\
                 | --- | ---: | ---: | ---: | ---: |\n",
                comparison.problem.name,
            );
            for held in &comparison.native_held {
                let one = &comparison.contestants[held.index];
                let _ = writeln!(
                    text,
                    "| {} | {:.1} | {} | {} | {:.1e} |",
                    history(held, one, comparison.cores[0]),
                    held.bytes as f64 / 1e6,
                    spread(&one.seconds),
                    times(one, torch).unwrap_or_else(|| "–".to_owned()),
                    held.relative_difference,
                );
            }
        }
        let NativeGrowth { len, density, sampled, dense } = &self.native_growth;
        let _ = writeln!(
            text,
            "\nPrFlashAttention at N = {len} (H = 8, KV = 2, D = 64, p(d) = 1/(1+d)), by the native engine:"
        );
        match sampled.ran() && dense.ran() {
            true => {
                let share = ratios(&sampled.seconds, &dense.seconds);
                let (least, most) = range(&share);
                let _ = writeln!(
                    text,
                    "{} ms of dense attention's {} ms, which is {:.4} ({least:.4} to {most:.4}) of the time for {density:.4} of the blocks; by CPU time {:.4}.\n",
                    spread(&sampled.seconds),
                    spread(&dense.seconds),
                    median(&share),
                    median(&ratios(&sampled.cpu_seconds, &dense.cpu_seconds)),
                );
            }
            false => text.push_str("it failed.\n\n"),
        }
    }

    fn staircase(&self, text: &mut String) {
        for comparison in self.comparisons.iter().filter(|comparison| !comparison.held.is_empty()) {
            let ours = &comparison.contestants[0];
            let _ = write!(
                text,
                "## Staircase decode\n\n\
                 {}, {}. One step of decoding with the history held in several ways, in the same rounds as the peers above. *Difference*: ‖o − o\\*‖ / ‖o\\*‖ from f32 tensors, on \
                 these random inputs, which have nothing that quantization could keep better; docs/MEASURED.md has the errors on a model's keys and values, and times of decoding over blocks chosen by content at up to 131,072 tokens.\n\n\
                 | history | MB of keys and values | ms: median (range) | times f32 (range) | difference |\n\
                 | --- | ---: | ---: | ---: | ---: |\n",
                comparison.problem.name,
                comparison.problem.describe(),
            );
            for held in &comparison.held {
                let one = &comparison.contestants[held.index];
                let name = if held.index == 0 { "prflash: f32 tensors" } else { one.name.as_str() };
                let _ = writeln!(
                    text,
                    "| {name} | {:.1} | {} | {} | {:.1e} |",
                    held.bytes as f64 / 1e6,
                    spread(&one.seconds),
                    times(one, ours).unwrap_or_default(),
                    held.relative_difference,
                );
            }
            let bytes = comparison.held[0].bytes as f64 / 1e6;
            for peer in &comparison.contestants[1..PEERS] {
                let _ = writeln!(
                    text,
                    "| *{}, f32* | {} | {} | {} | – |",
                    peer.name,
                    // What it reads: repeated heads are copies.
                    match peer.how.contains("repeated") {
                        true => format!("{:.1}", bytes * comparison.problem.group() as f64),
                        false => format!("{bytes:.1}"),
                    },
                    not_timed(peer).unwrap_or_else(|| spread(&peer.seconds)),
                    times(peer, ours).unwrap_or_default(),
                );
            }
            text.push('\n');
        }
    }

    fn scaling(&self, text: &mut String) {
        text.push_str(
            "## How PrFlashAttention scales\n\n\
             Causal, f32, H = 8 on KV = 2, D = 64, blocks of 64 tokens; p(d) = 1/(1+d) with one sink block, one list per head. All lengths run in the same rounds. The schedule is drawn on the host and uploaded beforehand; the column \
             *schedule* has what that took, once.\n\n\
             | N | blocks / dense | PrFlash, ms: median (range) | effective GFLOP/s | equivalent GFLOP/s | dense, ms: median (range) | dense / PrFlash | schedule, ms |\n\
             | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        );
        for point in &self.growth.points {
            let seconds = median(&point.sampled.seconds);
            // 8 heads of 64 channels.
            let dense_flops = 4.0 * 8.0 * 64.0 * (point.len as f64).powi(2) / 2.0;
            let (dense, gain) = match &point.dense {
                Some(dense) => {
                    (spread(&dense.seconds), ratio(median(&ratios(&dense.seconds, &point.sampled.seconds))))
                }
                None => ("–".to_owned(), "–".to_owned()),
            };
            let _ = writeln!(
                text,
                "| {} | {:.4} | {} | {:.1} | {:.1} | {dense} | {gain} | {} |",
                point.len,
                point.density,
                spread(&point.sampled.seconds),
                point.visited_flops / seconds / 1e9,
                dense_flops / seconds / 1e9,
                milliseconds(point.schedule_seconds),
            );
        }
        if let Some(why) = &self.growth.ended {
            let _ = writeln!(text, "\nThe series ended {}.", one_line(why));
        }
        let fitted = |fit: Option<(f64, f64)>| match fit {
            Some((slope, error)) if error.is_finite() => format!("**{slope:.3} ± {error:.3}**"),
            Some((slope, _)) => format!("**{slope:.3}** (two points)"),
            None => "– (too few points)".to_owned(),
        };
        let _ = write!(
            text,
            "\n![Time against N](docs/images/scaling.svg)\n\n\
             Time ∝ Nᵇ, least squares of ln time (medians) on ln N over N ≥ {FIT_FROM}, with standard errors:\n\n\
             | | b |\n| --- | --- |\n\
             | PrFlashAttention, time | {} |\n\
             | … its visited blocks, counted | {} |\n\
             | dense attention, time | {} |\n\n\
             Theory: the row of query block I visits about ln I blocks, so that T = N/64 rows visit about T·ln T, whose slope on logarithmic axes is 1 + 1/ln T: it falls from 1.24 at T = 64 to 1.13 at T = 2,048. Time should follow the blocks, and dense attention have \
             b = 2. A time exponent under that of the blocks is the fixed part of a call and of a row, which long sequences spread; one with a large error is a machine that had other things to do.\n\n",
            fitted(self.fit.sampled),
            fitted(self.fit.blocks),
            fitted(self.fit.dense),
        );
    }

    fn again(&self, text: &mut String) {
        text.push_str(
            "## On your own GPU\n\n\
             ```sh\n\
             scripts/benchmarks --quick            # some minutes; writes into target/benchmarks\n\
             scripts/benchmarks                    # everything; rewrites this file, the data and the pictures\n\
             scripts/benchmarks --out DIR          # … in DIR\n\
             scripts/benchmarks --without-burn     # … without burn, which isn't built then\n\
             scripts/benchmarks --python PROGRAM   # a Python that has torch, if python3 hasn't\n\
             ```\n\n\
             The first build compiles burn: hundreds of packages, 20 minutes on two cores. The program takes the adapter that wgpu prefers (`WGPU_BACKEND`, `WGPU_ADAPTER_NAME` choose for prflash, `CUBECL_WGPU_DEFAULT_DEVICE` for burn; the record names \
             what both opened), and a software Vulkan where there is none (`scripts/with-vulkan`, Debian-like systems). On a GPU raise `--dense-seconds` and `--rounds` freely: \
             calls are short there. Leave the machine alone while it runs; a range far wider than its median says that somebody didn't. A contestant that fails or is wrong is reported as that, and the program's exit status is then 1. \
             Records of other devices are welcome.\n",
        );
    }

    /// `docs/benchmarks.json`.
    pub fn json(&self) -> Value {
        let contestant = |one: &Contestant| {
            json!({
                "name": one.name, "how": one.how, "seconds": one.seconds, "cpu_seconds": one.cpu_seconds,
                "failed": one.failed, "absent": one.absent,
                "largest_difference_from_exact_rows": one.from_exact.filter(|x| x.is_finite()),
            })
        };
        let comparison = |comparison: &Comparison| {
            let problem = &comparison.problem;
            let all = &comparison.contestants;
            let held = |held: &Held| {
                json!({
                    "name": if held.index == 0 { "f32 tensors" } else { all[held.index].name.as_str() }, "bytes": held.bytes,
                    "relative_difference": held.relative_difference, "seconds": all[held.index].seconds,
                })
            };
            let trial = |trial: &crate::compare::Trial| json!({ "name": trial.name, "how": trial.how, "seconds": trial.seconds, "failed": trial.failed });
            json!({
                "name": problem.name, "heads": problem.heads, "kv_heads": problem.kv_heads, "q_len": problem.q_len,
                "kv_len": problem.kv_len, "head_dim": problem.dim, "flops": problem.flops(), "kernel": comparison.kernel,
                "peers": all[..PEERS].iter().map(contestant).collect::<Vec<_>>(),
                "cores": comparison.cores.iter().map(|&at| contestant(&all[at])).collect::<Vec<_>>(),
                "native_histories": comparison.native_held.iter().map(|held| json!({
                    "name": history(held, &all[held.index], comparison.cores[0]), "bytes": held.bytes,
                    "relative_difference": held.relative_difference, "seconds": all[held.index].seconds,
                    "cpu_seconds": all[held.index].cpu_seconds,
                })).collect::<Vec<_>>(),
                "instructions": comparison.instructions,
                "histories": comparison.held.iter().map(held).collect::<Vec<_>>(),
                "trials": comparison.trials.iter().map(trial).collect::<Vec<_>>(),
            })
        };
        let point = |point: &Point| {
            json!({
                "len": point.len, "visited_blocks": point.blocks, "density": point.density, "visited_flops": point.visited_flops,
                "schedule_seconds": point.schedule_seconds, "sampled": contestant(&point.sampled),
                "dense": point.dense.as_ref().map(contestant),
            })
        };
        let fitted = |fit: Option<(f64, f64)>| {
            fit.map(|(slope, error)| json!({ "exponent": slope, "standard_error": Some(error).filter(|x| x.is_finite()) }))
        };
        let machine = &self.machine;
        json!({
            "device": machine.device, "burn_device": machine.burn_device, "software": machine.software, "cpu": machine.cpu,
            "threads": machine.threads, "torch": machine.torch, "torch_absent": machine.torch_absent,
            "peak_flops_per_second": { "one_thread": machine.peaks[0], "all_threads": machine.peaks[1] },
            "native_growth": {
                "len": self.native_growth.len, "density": self.native_growth.density,
                "sampled": contestant(&self.native_growth.sampled), "dense": contestant(&self.native_growth.dense),
            },
            "burn": version("burn"), "candle": version("candle-core"), "options": self.options.trim(),
            "shapes": self.comparisons.iter().map(comparison).collect::<Vec<_>>(),
            "scaling": {
                "ended": self.growth.ended, "heads": 8, "kv_heads": 2, "head_dim": 64, "profile": "1/(1+d), one sink block", "fit_from": FIT_FROM,
                "points": self.growth.points.iter().map(point).collect::<Vec<_>>(),
                "fit": { "sampled": fitted(self.fit.sampled), "blocks": fitted(self.fit.blocks), "dense": fitted(self.fit.dense) },
            },
        })
    }
}

/// What a table says in place of times.
fn not_timed(one: &Contestant) -> Option<String> {
    match (&one.absent, &one.failed) {
        (Some(why), _) => Some(format!("not run: {}", one_line(why))),
        (None, Some(why)) => Some(format!("failed: {}", one_line(why))),
        (None, None) => None,
    }
}

/// What tables call a history of the native engine; `native` is the number of the one in f32.
fn history(held: &Held, one: &Contestant, native: usize) -> String {
    match held.index == native {
        true => "f32 tensors".to_owned(),
        false => one.name.trim_start_matches("native, ").to_owned(),
    }
}

/// For a cell of a table.
fn one_line(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "/");
    match line.char_indices().nth(160) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
pub mod tests;
