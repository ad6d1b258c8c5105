//! Attention in rounds, on the attention inputs of a real model: an estimate after every round,
//! with its standard error; partition rounds that end exactly dense; and what uncorrected rounds
//! converge to.
//!
//! ```text
//! cargo run --release --example rounds
//! ```

use anyhow::Result;
use clap::Parser;
use prflash::rounds::{Combine, Estimate, Rounds, RoundsPlan};
use prflash::sampling::{Entry, partition_rounds};
use prflash::{
    Attention, BlockGrid, Context, Profile, Schedule, Seed, Systematic, Tables, Tensor, reference,
};
use serde_json::{Value, json};
use testkit::chart::{Axis, Panel, Scale, Series, chart};
use testkit::example::{self, Progress};
use testkit::fixture::{self, Layer};

/// Runs attention in rounds on real attention inputs.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    common: example::Common,
    /// Tokens of context, at most 3840.
    #[arg(long, default_value_t = 2048, default_value_if("quick", "true", "512"), value_parser = clap::value_parser!(u16).range(128..=3840))]
    tokens: u16,
    /// Independent rounds.
    #[arg(long, default_value_t = 256, default_value_if("quick", "true", "8"), value_parser = clap::value_parser!(u32).range(2..=4096))]
    rounds: u32,
    /// Partition rounds.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=64))]
    partition: u16,
    /// Seed of the schedules.
    #[arg(long, default_value_t = 2410)]
    seed: u64,
}

/// One line of a table.
struct Row {
    rounds: u32,
    /// Block pairs visited so far over those of dense attention, each as often as it was visited.
    visits: f64,
    /// ‖estimate − target‖ / ‖target‖.
    distance: f64,
    /// √Σ SE² / ‖target‖: what the standard errors of the rows say of that distance.
    claimed: f64,
}

/// What was measured on one layer.
struct Measured {
    layer: u32,
    identity: Vec<Row>,
    corrected: Vec<Row>,
    partition: Vec<Row>,
}

/// A layer on the GPU.
struct Problem<'a> {
    context: &'a Context,
    layer: &'a Layer,
    grid: BlockGrid,
    q: Tensor,
    k: Tensor,
    v: Tensor,
}

fn main() -> Result<()> {
    env_logger::init();
    let (arguments, usual) = example::parse::<Arguments>();
    let context = Context::new_blocking()?;
    let mut measured = Vec::new();
    for layer in fixture::load(arguments.tokens.into())? {
        measured.push(Problem::new(&context, &layer)?.measure(&arguments)?);
    }
    let picture = arguments.common.folder("rounds", usual)?.join("error_vs_rounds.svg");
    let panel = |measured: &Measured| {
        let curve = |name: &str, rows: &[Row], value: fn(&Row) -> f64| {
            Series::line(name, rows.iter().map(|row| (row.visits, value(row))))
        };
        let series = vec![
            curve("independent, β = 1: error to dense", &measured.corrected, |row| row.distance),
            curve("the same, as its standard error claims", &measured.corrected, |row| row.claimed),
            curve("independent, β = 0: to dense with +ln p(d)", &measured.identity, |row| row.distance),
            curve("partition, while under way", &measured.partition, |row| {
                if row.distance > 1e-5 { row.distance } else { f64::NAN }
            }),
        ];
        Panel { title: format!("layer {}", measured.layer), series }
    };
    let panels: Vec<_> = measured.iter().map(panel).collect();
    let axis = |title| Axis { title, scale: Scale::Powers(10.0), ..Axis::default() };
    chart(&picture, [axis("block visits / dense"), axis("relative output error")], &panels)?;

    let worst = measured.iter().map(|m| m.partition.last().map_or(f64::NAN, |row| row.distance));
    let partition_error = worst.fold(0.0, f64::max);
    if arguments.common.json {
        let rows = |of: fn(&Measured) -> &Vec<Row>, distance: &'static str| -> Vec<Value> {
            let row = |layer: u32, row: &Row| {
                let mut value = json!({ "layer": layer, "rounds": row.rounds, "visits": row.visits });
                value[distance] = json!(row.distance);
                if row.claimed.is_finite() {
                    value["standard_error"] = json!(row.claimed);
                }
                value
            };
            measured.iter().flat_map(|m| of(m).iter().map(move |r| row(m.layer, r))).collect()
        };
        let fields = json!({
            "tokens": arguments.tokens,
            "identity": rows(|m| &m.identity, "relative_distance"),
            "independent": rows(|m| &m.corrected, "relative_error"),
            "partition": rows(|m| &m.partition, "relative_error"),
            "partition_error": partition_error,
        });
        println!("{}", example::object("rounds", Some(&context), &[picture], fields)?);
        return Ok(());
    }
    println!("Device   {}", context.capabilities());
    println!(
        "Profile  {}, one sink block; {} tokens; systematic; seed {}",
        Profile::harmonic(),
        arguments.tokens,
        arguments.seed
    );
    for measured in &measured {
        println!("\nLayer {}\n", measured.layer);
        let table = |title: &str, rows: &[Row]| {
            println!("  {title}\n  rounds   visits   distance   claimed");
            for row in rows {
                let claimed =
                    if row.claimed.is_finite() { format!("{:.5}", row.claimed) } else { "–".into() };
                println!("  {:>6}  {:>7.3}  {:>9.2e}   {claimed:>7}", row.rounds, row.visits, row.distance);
            }
            println!();
        };
        table("Independent rounds, β = 1: to dense attention", &measured.corrected);
        table("Independent rounds, β = 0: to dense attention with the bias +ln p(d)", &measured.identity);
        table("Partition rounds: to dense attention", &measured.partition);
    }
    println!(
        "visits: block pairs over those of dense attention; distance: ‖o − o*‖ / ‖o*‖, o* in f64; claimed: √Σ SE² / ‖o*‖ from the rows' standard errors."
    );
    println!("After all partition rounds the distance is that of f32 rounding: {partition_error:.1e}.");
    println!("\nPicture  {}", picture.display());
    Ok(())
}

impl<'a> Problem<'a> {
    fn new(context: &'a Context, layer: &'a Layer) -> Result<Self> {
        let [q, k, v] = layer.upload(context)?;
        Ok(Self { context, layer, grid: BlockGrid::causal(&layer.shape), q, k, v })
    }

    fn measure(&self, arguments: &Arguments) -> Result<Measured> {
        let mut progress = Progress::new();
        progress.tell(format!("Layer {}: the exact results on the CPU …", self.layer.index));
        let dense = self.exact(&Attention::causal(), &Tables::new())?;
        let profile = Profile::harmonic();
        // Dense attention whose scores have + ln p(d). Weights enter scores as −β·ln w, so w =
        // least p / p(d) gives ln p(d) and a constant, which no softmax sees.
        let least = profile.probability(self.grid.key_blocks());
        let biased = Schedule::from_entries(
            &self.grid,
            &self.dense_lists(|block, row| {
                let p = if block < profile.sink_blocks() { 1.0 } else { profile.probability(row - block) };
                (least / p).ln() as f32
            }),
        )?;
        let target = self.exact(&Attention::causal().with_correction(1.0)?, &Tables::from(&biased))?;
        let draw = |round: u32| {
            let seed = Seed::new(arguments.seed).layer(self.layer.index).round(round);
            Schedule::sample(&self.grid, &profile, &Systematic, seed)
        };
        let shown = |round: u32| (round + 1).is_power_of_two() || round + 1 == arguments.rounds;
        let mut independent = |beta: f32, target: &[f64]| -> Result<Vec<Row>> {
            let plan = self.plan(Attention::causal().with_correction(beta)?, Combine::Independent)?;
            let mut schedule = |round: u32| {
                let (layer, of) = (self.layer.index, arguments.rounds);
                progress.tell(format!("Layer {layer}, β = {beta}: round {} of {of}", round + 1));
                draw(round)
            };
            self.rounds(&plan, (0..arguments.rounds).map(&mut schedule), shown, target)
        };
        let (identity, corrected) = (independent(0.0, &target)?, independent(1.0, &dense)?);
        let seed = Seed::new(arguments.seed).layer(self.layer.index);
        let parts = partition_rounds(&self.grid, &profile, seed, arguments.partition.into())?;
        let plan = self.plan(Attention::causal(), Combine::Partition)?;
        let partition = self.rounds(&plan, parts.into_iter().map(Ok), |_| true, &dense)?;
        progress.done(format!("Layer {}", self.layer.index));
        Ok(Measured { layer: self.layer.index, identity, corrected, partition })
    }

    fn exact(&self, attention: &Attention, tables: &Tables<'_>) -> Result<Vec<f64>> {
        let Layer { shape, q, k, v, .. } = self.layer;
        Ok(reference::attention(attention, shape, q, k, v, tables)?.output)
    }

    /// Every causal block, with a weight of its own.
    fn dense_lists(&self, weight: impl Fn(usize, usize) -> f32) -> Vec<Vec<Entry>> {
        let row = |row: usize| (0..=row).map(|block| Entry { block, ln_p: weight(block, row) }).collect();
        (0..self.grid.groups()).flat_map(|_| (0..self.grid.query_blocks()).map(row)).collect()
    }

    fn plan(&self, attention: Attention, combine: Combine) -> Result<RoundsPlan> {
        Ok(attention.plan(self.context, &self.layer.shape)?.rounds(combine)?)
    }

    /// Runs the rounds, and compares the estimate after those that are `shown`.
    fn rounds(
        &self,
        plan: &RoundsPlan,
        schedules: impl Iterator<Item = prflash::Result<Schedule>>,
        shown: impl Fn(u32) -> bool,
        target: &[f64],
    ) -> Result<Vec<Row>> {
        let mut rounds: Rounds<'_> = plan.start(self.q.view(), self.k.view(), self.v.view())?;
        let (mut rows, mut visits) = (Vec::new(), 0.0);
        for (round, schedule) in (0..).zip(schedules) {
            let schedule = schedule?;
            visits += schedule.density();
            let estimate = rounds.step(&Tables::from(&schedule))?;
            if shown(round) {
                let (distance, claimed) = self.compare(estimate, target)?;
                rows.push(Row { rounds: round + 1, visits, distance, claimed });
            }
        }
        Ok(rows)
    }

    fn compare(&self, estimate: &Estimate, target: &[f64]) -> Result<(f64, f64)> {
        let got = estimate.output.read_blocking(self.context)?;
        let size: f64 = target.iter().map(|x| x * x).sum();
        let off: f64 = got.iter().zip(target).map(|(&x, y)| (f64::from(x) - y).powi(2)).sum();
        let claimed = match &estimate.standard_error {
            Some(errors) => {
                errors.read_blocking(self.context)?.iter().map(|&e| f64::from(e).powi(2)).sum::<f64>()
            }
            None => f64::NAN,
        };
        Ok(((off / size).sqrt(), (claimed / size).sqrt()))
    }
}
