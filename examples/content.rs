//! Blocks chosen by their distance, by what is known of their keys, or by both, on the attention
//! inputs of a real model: the error of the output against dense attention, the attention mass that
//! was reached, and the bytes that were read, for as many blocks a row.
//!
//! The queries are the last half of the tokens, so that each of them has more blocks behind it than
//! it may visit. Heads that share keys and values share a list; one list per head is measured
//! beside it, and all that these lists read together is what it costs. Lists are chosen by causal
//! probes ([`Probe::causal`]): by rows that come before all rows that use the list. In decoding, a
//! list is for one row, which speaks for itself.
//!
//! ```text
//! cargo run --release --example content
//! cargo run --release --example content -- --backend native  # attention on CPU cores
//! cargo run --release --example content -- --decode          # every 32nd query, with its own list
//! cargo run --release --example content -- --block-size 16   # as many tokens in smaller blocks
//! ```

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::Parser;
use prflash::attention::Sequence;
use prflash::native::{HostView, HostViewMut, NativeOperands, NativeOptions, NativePlan};
use prflash::reference::{self, BlockMass};
use prflash::sampling::Granularity;
use prflash::sampling::content::{BlockScores, DEFAULT_GROUP, Estimate, KeySummaries, Participation, Probe};
use prflash::verify::{Tolerance, compare};
use prflash::{
    BlockGrid, Bound, Call, Context, ContextOptions, DType, Layout, Operands, Plan, PlanOptions, Profile,
    Schedule, Seed, Shape, Systematic, TableBuffer, Tables, Tensor,
};
use serde_json::{Value, json};
use testkit::backend::{Backend, Computing};
use testkit::chart::{Axis, Panel, Point, Scale, Series, chart};
use testkit::example::{self, Progress};
use testkit::fixture::{self, Layer};
use testkit::picture;
use testkit::statistics::{mean, standard_error};

/// Blocks chosen by distance and by content on real attention inputs.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    common: example::Common,
    #[command(flatten)]
    computing: Computing,
    /// Tokens of context, at most 3840. [default: 3840, and 1024 by the reference]
    #[arg(long, default_value_if("quick", "true", "1024"), value_parser = clap::value_parser!(u16).range(640..=3840))]
    tokens: Option<u16>,
    /// Tokens of a block: 64, 32 or 16.
    #[arg(long, default_value = "64", value_parser = ["64", "32", "16"])]
    block_size: String,
    /// A list for each of every 32nd query row, in place of one for each query block.
    #[arg(long)]
    decode: bool,
    /// Seeds of the rules that draw.
    #[arg(long, default_value_t = 8, default_value_if("quick", "true", "2"), value_parser = clap::value_parser!(u16).range(2..))]
    seeds: u16,
    /// Query rows that speak for a list.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    probe_rows: u16,
}

/// What a row may visit, in blocks of 64 tokens.
const BUDGETS: [usize; 6] = [4, 6, 8, 12, 16, 24];

/// The budget of the picture, in blocks of 64 tokens.
const PICTURED: usize = 6;

/// By what blocks are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    SinkWindow,
    Harmonic,
    Bound,
    MeanKey,
    Saturated,
    Both,
    PerHead,
    Exact,
    TopK,
}

impl Rule {
    const ALL: [Rule; 9] = [
        Rule::SinkWindow,
        Rule::Harmonic,
        Rule::Bound,
        Rule::MeanKey,
        Rule::Saturated,
        Rule::Both,
        Rule::PerHead,
        Rule::Exact,
        Rule::TopK,
    ];

    /// What JSON calls it.
    fn name(self) -> &'static str {
        match self {
            Rule::SinkWindow => "sink_window",
            Rule::Harmonic => "harmonic",
            Rule::Bound => "bound",
            Rule::MeanKey => "mean_key",
            Rule::Saturated => "saturated",
            Rule::Both => "both",
            Rule::PerHead => "saturated_per_head",
            Rule::Exact => "exact",
            Rule::TopK => "top_k",
        }
    }

    fn shown(self) -> &'static str {
        match self {
            Rule::SinkWindow => "sink + window",
            Rule::Harmonic => "harmonic, drawn",
            Rule::Bound => "bound (Quest)",
            Rule::MeanKey => "mean key",
            Rule::Saturated => "saturated",
            Rule::Both => "both, drawn",
            Rule::PerHead => "saturated, per head",
            Rule::Exact => "exact, of the probes",
            Rule::TopK => "top-k, of all rows",
        }
    }

    /// The importance correction β.
    fn beta(self) -> f32 {
        match self {
            Rule::Harmonic => 0.5,
            Rule::Both => 1.0,
            _ => 0.0,
        }
    }

    fn is_drawn(self) -> bool {
        matches!(self, Rule::Harmonic | Rule::Both)
    }

    /// The bytes that choosing reads of each visible block; `group` is that of the summaries.
    fn bytes_read(self, group: usize, block: usize, dim: usize) -> usize {
        let groups = block.div_ceil(group);
        match self {
            Rule::SinkWindow | Rule::Harmonic => 0,
            // Extremes in f16, as Quest has them, and means.
            Rule::Bound => groups * 4 * dim,
            Rule::MeanKey => groups * 2 * dim,
            // Means and distances from them in 8 bits, with a scale in f32 for each.
            Rule::Saturated | Rule::Both | Rule::PerHead => groups * (2 * dim + 8),
            // The keys themselves.
            Rule::Exact | Rule::TopK => block * 2 * dim,
        }
    }
}

/// One rule at one budget.
struct Row {
    layer: u32,
    rule: Rule,
    budget: usize,
    /// Blocks that a KV head reads for a list's queries, on average.
    blocks: f64,
    /// By seed.
    errors: Vec<f64>,
    recall: f64,
    /// That a KV head reads for a list's queries, on average.
    bytes: f64,
}

fn main() -> Result<()> {
    env_logger::init();
    let (arguments, usual) = example::parse::<Arguments>();
    let backend = arguments.computing.open(ContextOptions::new())?;
    let default = if matches!(backend, Backend::Reference) { 1024 } else { 3840 };
    let tokens = arguments.tokens.map_or(default, usize::from);
    let (block, decode): (usize, bool) = (arguments.block_size.parse()?, arguments.decode);
    let probe = Probe::causal(arguments.probe_rows.into())?;
    let layers = fixture::load(tokens)?;
    let mut progress = Progress::new();
    progress.tell("Summing the exact attention mass of every block on the CPU …");
    let problems = std::thread::scope(|scope| {
        let work: Vec<_> = layers
            .iter()
            .map(|layer| scope.spawn(move || Problem::new(layer, block, decode, probe)))
            .collect();
        work.into_iter()
            .map(|thread| thread.join().expect("the oracle doesn't panic"))
            .collect::<Result<Vec<_>>>()
    })?;
    progress.done("The exact attention mass, on the CPU");

    let folder = arguments.common.folder("content", usual)?;
    let mut rows = Vec::new();
    for problem in &problems {
        rows.extend(problem.measure(&backend, arguments.seeds.into())?);
    }
    let mut pictures = vec![folder.join("content_error.svg")];
    error_picture(&pictures[0], &rows, block)?;
    if let (false, Some(sharp)) = (decode, problems.last()) {
        pictures.push(folder.join("content_blocks.svg"));
        sharp.draw(&pictures[1])?;
    }
    let queries = problems[0].steps.iter().map(|step| step.queries.len()).sum::<usize>();
    if arguments.common.json {
        let fields = json!({
            "tokens": tokens,
            "queries": queries,
            "decode": decode,
            "block_size": block,
            "group": problems[0].group,
            "probe_rows": arguments.probe_rows,
            "seeds": arguments.seeds,
            "rows": rows.iter().map(Row::json).collect::<Vec<_>>(),
        });
        println!("{}", backend.object("content", &pictures, fields)?);
        return Ok(());
    }
    println!("Device   {backend}");
    println!(
        "Inputs   {} query heads on {} KV head; of the last half of {tokens} tokens {queries} as queries; blocks of {block}, of which these see {} to {}",
        layers[0].shape.heads(),
        layers[0].shape.kv_heads(),
        problems[0].fewest_blocks(),
        tokens.div_ceil(block),
    );
    for problem in &problems {
        println!("{}", table(problem.layer.index, &rows));
    }
    print!("{LEGEND}");
    println!("Pictures {}", folder.display());
    Ok(())
}

const LEGEND: &str = "\
What the numbers mean
  blocks   a row visits, over which the columns go; a KV head with a list for each of its query heads reads more than that
  error    ‖o − o*‖ / ‖o*‖ over all rows, with o* the output of dense attention; of rules that draw the mean ± its standard error over seeds, in units of the last digit
  recall   share of dense attention's mass that lies in visited blocks, mean over rows
  KiB      of keys and values in f16 that a KV head reads for a query block (in decoding: for a query), and of what the rule reads to choose
  harmonic half of the budget is the window, the rest is drawn by 1/(1+d), β = ½; both: drawn by share^½/(1+d)^½ of the saturated estimate, β = 1
  exact    chosen by the mass that the same few query rows have in each block; top-k by the mass of all rows, later ones too: what no rule can know
How to read them: in one column rules have visited as many blocks, so the smaller error is the better choice of blocks there; across columns compare at equal KiB.

";

/// Queries that have lists of their own, over the keys that they see, and what rules may know of
/// them.
struct Step {
    /// Rows of the problem's queries.
    queries: Range<usize>,
    shape: Shape,
    /// One list per KV head.
    grid: BlockGrid,
    saturated: BlockScores,
    bound: BlockScores,
    mean_key: BlockScores,
    exact: BlockScores,
    mass: BlockMass,
}

/// A layer's last queries: all of them together, or some of them one by one.
struct Problem<'a> {
    layer: &'a Layer,
    /// Of the queries and all keys.
    shape: Shape,
    /// `[heads, q_len, head_dim]`, before rotation.
    q: Vec<f32>,
    block: usize,
    group: usize,
    steps: Vec<Step>,
}

impl<'a> Problem<'a> {
    fn new(layer: &'a Layer, block: usize, decode: bool, probe: Probe) -> Result<Self> {
        let len = layer.shape.kv_len();
        // Whole blocks, so that every row of a query block has the blocks that its list may have.
        let first = (len / 2).next_multiple_of(block);
        let shape = layer.shape.with_q_len(len - first)?;
        let q = rows_of(&layer.unrotated_q, &layer.shape, len, first..len);
        let mut problem = Self { layer, shape, q, block, group: DEFAULT_GROUP.min(block), steps: vec![] };
        let queries: Vec<Range<usize>> = match decode {
            true => (31..shape.q_len()).step_by(32).map(|row| row..row + 1).collect(),
            false => std::iter::once(0..shape.q_len()).collect(),
        };
        for queries in queries {
            let step = problem.step(queries, first, probe)?;
            problem.steps.push(step);
        }
        Ok(problem)
    }

    /// Those queries, of which the first of all has the position `first`.
    fn step(&self, queries: Range<usize>, first: usize, probe: Probe) -> Result<Step> {
        let shape = self.shape.with_q_len(queries.len())?.with_kv_len(first + queries.end)?;
        let grid =
            BlockGrid::causal(&shape).with_block_size(self.block)?.with_granularity(Granularity::KvHead);
        let (attention, [q, k, _]) = (self.layer.attention(), self.inputs(&queries, shape.kv_len()));
        let summarize = |group| attention.summarize(&shape, &k, group, None);
        let score = |keys: &KeySummaries, estimate| {
            attention.block_scores(&grid, &q, keys, estimate, probe, &Tables::new())
        };
        let (keys, single) = (summarize(self.group)?, summarize(1)?);
        Ok(Step {
            saturated: score(&keys.clone().with_8_bits(), Estimate::Saturated)?,
            bound: score(&keys, Estimate::Bound)?,
            mean_key: score(&keys, Estimate::MeanKey)?,
            // Every estimate of a single key is exact.
            exact: score(&single, Estimate::Bound)?,
            mass: reference::block_mass(&attention, &shape, &q, &k, &grid)?,
            queries,
            shape,
            grid,
        })
    }

    /// Q, K and V of these queries and the first `keys` keys.
    fn inputs(&self, queries: &Range<usize>, keys: usize) -> [Vec<f32>; 3] {
        let (layer, shape) = (self.layer, &self.shape);
        let of = |values: &[f32], len, range| rows_of(values, shape, len, range);
        [
            of(&self.q, shape.q_len(), queries.clone()),
            of(&layer.unrotated_k, shape.kv_len(), 0..keys),
            of(&layer.v, shape.kv_len(), 0..keys),
        ]
    }

    /// The steps, as sequences of one call.
    fn sequences(&self) -> Vec<Sequence> {
        let sequence = |step: &Step| {
            let (queries, keys) = (step.queries.clone(), 0..step.shape.kv_len());
            Sequence { queries, keys, ..Sequence::default() }
        };
        self.steps.iter().map(sequence).collect()
    }

    /// The blocks that the first query sees, which has the fewest.
    fn fewest_blocks(&self) -> usize {
        let step = |step: &Step| step.grid.dense_row(step.grid.first_query_block());
        self.steps.iter().map(step).min().unwrap_or(0)
    }

    /// Every rule at every budget that leaves something out.
    fn measure(&self, backend: &Backend, seeds: u64) -> Result<Vec<Row>> {
        let engine = Engine::new(self, backend)?;
        let dense: Vec<f64> = engine.run(0.0, None)?.into_iter().map(f64::from).collect();
        let budgets: Vec<usize> = BUDGETS.into_iter().map(|budget| budget * 64 / self.block).collect();
        let budgets: Vec<usize> =
            budgets.into_iter().filter(|&blocks| blocks < self.fewest_blocks()).collect();
        let mut progress = Progress::new();
        let mut rows = Vec::new();
        for (rule, budget) in Rule::ALL.iter().flat_map(|&rule| budgets.iter().map(move |&b| (rule, b))) {
            progress.tell(format!("Layer {}: {}, {budget} blocks", self.layer.index, rule.shown()));
            let (mut errors, mut blocks, mut recalls, mut bytes) = (vec![], vec![], vec![], vec![]);
            for seed in 0..if rule.is_drawn() { seeds } else { 1 } {
                let seed = Seed::new(seed).layer(self.layer.index);
                let choose = |(at, step): (usize, &Step)| step.choose(rule, budget, seed.sequence(at as u32));
                let chosen: Vec<Schedule> =
                    self.steps.iter().enumerate().map(choose).collect::<prflash::Result<_>>()?;
                let output = engine.run(rule.beta(), Some(&chosen))?;
                // Not a test: the tolerance plays no part, the relative error does.
                let report = compare(&output, &dense, Tolerance::absolute(0.0))?;
                anyhow::ensure!(report.nan == 0, "{}, {seed:?}: {report}", rule.shown());
                errors.push(report.relative_error);
                for (step, schedule) in self.steps.iter().zip(&chosen) {
                    // Steps have as many queries each.
                    recalls.push(step.mass.recall(schedule)?);
                    let read = step.read(rule, self.group, schedule);
                    blocks.push(read.0);
                    bytes.push(read.1);
                }
            }
            let [blocks, recall, bytes] = [blocks, recalls, bytes].map(|values| mean(&values));
            rows.push(Row { layer: self.layer.index, rule, budget, blocks, errors, recall, bytes });
        }
        let (layer, rules) = (self.layer.index, Rule::ALL.len());
        progress.done(format!("Layer {layer}, {rules} rules at {} budgets", budgets.len()));
        Ok(rows)
    }

    /// What distance and content chose.
    fn draw(&self, path: &Path) -> Result<()> {
        let blocks = PICTURED * 64 / self.block;
        let rules = [Rule::Harmonic, Rule::Saturated, Rule::Both, Rule::TopK];
        let mut panels = Vec::new();
        for rule in rules {
            panels.push((rule.shown().to_owned(), self.steps[0].choose(rule, blocks, Seed::new(0))?));
        }
        let title = format!("layer {}, KV head 0: {blocks} blocks a row", self.layer.index);
        picture::chosen(path, &title, &panels)
    }
}

/// Rows of each head of `[heads, len, dim]`.
fn rows_of(values: &[f32], shape: &Shape, len: usize, rows: Range<usize>) -> Vec<f32> {
    let dim = shape.head_dim();
    let heads = values.chunks_exact(len * dim);
    heads.flat_map(|head| &head[rows.start * dim..rows.end * dim]).copied().collect()
}

impl Step {
    fn choose(&self, rule: Rule, blocks: usize, seed: Seed) -> prflash::Result<Schedule> {
        let (grid, top) = (&self.grid, Participation::content(blocks)?);
        let profile = match rule {
            Rule::Harmonic => Profile::half_window(blocks as f64)?,
            // With the sink the window is all of the budget.
            _ => Profile::budget(blocks as f64)?.with_window_blocks(blocks - 1)?,
        };
        match rule {
            Rule::SinkWindow | Rule::Harmonic => Schedule::sample(grid, &profile, &Systematic, seed),
            Rule::Bound => Schedule::select(grid, &top, &self.bound, seed),
            Rule::MeanKey => Schedule::select(grid, &top, &self.mean_key, seed),
            Rule::Saturated => Schedule::select(grid, &top, &self.saturated, seed),
            Rule::Both => {
                Schedule::select(grid, &Participation::both(blocks, 0.5, 0.5)?, &self.saturated, seed)
            }
            Rule::PerHead => {
                Schedule::select(&grid.with_granularity(Granularity::Head), &top, &self.saturated, seed)
            }
            Rule::Exact => Schedule::select(grid, &top, &self.exact, seed),
            Rule::TopK => self.mass.heaviest_like(&self.choose(Rule::Exact, blocks, seed)?),
        }
    }

    /// Blocks and bytes that a KV head reads for a query block, on average: what any of its query
    /// heads visits, once.
    fn read(&self, rule: Rule, group: usize, schedule: &Schedule) -> (f64, f64) {
        let (shape, grid) = (&self.shape, schedule.grid());
        let block = grid.block_size();
        let tokens = |at: usize| ((at + 1) * block).min(grid.kv_len()) - at * block;
        let (mut blocks, mut bytes) = (0, 0);
        let heads = grid.heads() / grid.kv_heads();
        for (kv_head, row) in (0..grid.kv_heads()).flat_map(|h| (0..grid.query_blocks()).map(move |r| (h, r)))
        {
            let of_head = |head: usize| schedule.blocks(grid.group_of_head(head), row);
            let read: BTreeSet<usize> = (kv_head * heads..(kv_head + 1) * heads).flat_map(of_head).collect();
            blocks += read.len();
            let read: usize = read.into_iter().map(tokens).sum();
            bytes += 2 * read * (shape.head_dim() + shape.value_dim());
            let visible = grid.dense_row(grid.first_query_block() + row as i64);
            bytes += visible * rule.bytes_read(group, block, shape.head_dim());
        }
        let rows = (grid.kv_heads() * grid.query_blocks()) as f64;
        (blocks as f64 / rows, bytes as f64 / rows)
    }
}

/// The corrections that rules have.
const BETAS: [f32; 3] = [0.0, 0.5, 1.0];

/// What computes.
enum Engine<'a> {
    Gpu(Box<Gpu>),
    Native(Box<Native<'a>>),
    Reference(&'a Problem<'a>),
}

struct Gpu {
    output: Tensor,
    /// One plan for each correction.
    plans: Vec<(f32, Plan, Bound)>,
    sequences: Vec<Sequence>,
}

struct Native<'a> {
    problem: &'a Problem<'a>,
    queries: Layout,
    keys: Layout,
    /// One plan for each correction.
    plans: Vec<(f32, NativePlan)>,
    sequences: Vec<Sequence>,
    output: RefCell<Vec<f32>>,
}

impl Gpu {
    fn new(problem: &Problem<'_>, context: &Context) -> Result<Self> {
        let (layer, shape) = (problem.layer, &problem.shape);
        let tensor = |heads, len, values: &[f32]| -> Result<Tensor> {
            let layout = Layout::heads_first(1, heads, len, shape.head_dim())?;
            Ok(Tensor::upload(context, DType::F32, layout, values)?)
        };
        let q = tensor(shape.heads(), shape.q_len(), &problem.q)?;
        let k = tensor(shape.kv_heads(), shape.kv_len(), &layer.unrotated_k)?;
        let v = tensor(shape.kv_heads(), shape.kv_len(), &layer.v)?;
        let output = Tensor::zeros(context, DType::F32, *q.view().layout())?;
        let operands = Operands { q: q.view(), k: k.view(), v: v.view(), output: output.view(), lse: None };
        let options = PlanOptions::new().with_sequences(problem.steps.len())?;
        let mut plans = Vec::new();
        for beta in BETAS {
            let plan = layer.attention().with_correction(beta)?.plan_with(context, shape, &options)?;
            let bound = plan.bind(&operands)?;
            plans.push((beta, plan, bound));
        }
        Ok(Self { output, plans, sequences: problem.sequences() })
    }

    fn run(&self, beta: f32, tables: Option<&Tables<'_>>) -> Result<Vec<f32>> {
        let plan = self.plans.iter().find(|(of, ..)| *of == beta);
        let (_, plan, bound) = plan.context("no plan for this β")?;
        let context = plan.context();
        let uploaded = tables.map(|tables| TableBuffer::new(context, tables)).transpose()?;
        let call = Call::sequences(&self.sequences);
        let call = uploaded.iter().fold(call, |call, tables| call.with_tables(tables));
        let mut encoder = context.device().create_command_encoder(&Default::default());
        plan.encode(&mut encoder, bound, &call)?;
        context.queue().submit([encoder.finish()]);
        Ok(self.output.read_blocking(context)?)
    }
}

impl<'a> Native<'a> {
    fn new(problem: &'a Problem<'a>) -> Result<Self> {
        let (layer, shape) = (problem.layer, &problem.shape);
        let layout = |heads, len| Layout::heads_first(1, heads, len, shape.head_dim());
        let (queries, keys) =
            (layout(shape.heads(), shape.q_len())?, layout(shape.kv_heads(), shape.kv_len())?);
        let plan = |beta| -> Result<(f32, NativePlan)> {
            let attention = layer.attention().with_correction(beta)?;
            Ok((beta, attention.plan_native(shape, &NativeOptions::new())?))
        };
        let plans = BETAS.into_iter().map(plan).collect::<Result<_>>()?;
        let output = RefCell::new(vec![0.0; queries.elements()]);
        Ok(Self { problem, queries, keys, plans, sequences: problem.sequences(), output })
    }

    fn run(&self, beta: f32, tables: &Tables<'_>) -> Result<Vec<f32>> {
        let (_, plan) = self.plans.iter().find(|(of, _)| *of == beta).context("no plan for this β")?;
        let output = &mut *self.output.borrow_mut();
        let layer = self.problem.layer;
        let mut operands = NativeOperands {
            q: HostView::new(&self.problem.q[..], self.queries)?,
            k: HostView::new(&layer.unrotated_k[..], self.keys)?,
            v: HostView::new(&layer.v[..], self.keys)?,
            output: HostViewMut::new(&mut output[..], self.queries)?,
            lse: None,
        };
        plan.run_sequences(&mut operands, &self.sequences, tables)?;
        Ok(output.clone())
    }
}

impl<'a> Engine<'a> {
    fn new(problem: &'a Problem<'_>, backend: &Backend) -> Result<Self> {
        Ok(match backend {
            Backend::Gpu(context) => Engine::Gpu(Box::new(Gpu::new(problem, context)?)),
            Backend::Native => Engine::Native(Box::new(Native::new(problem)?)),
            Backend::Reference => Engine::Reference(problem),
        })
    }

    /// The output of all queries, under a schedule for each step or densely, in an order that is
    /// always the same.
    fn run(&self, beta: f32, schedules: Option<&[Schedule]>) -> Result<Vec<f32>> {
        let mut tables = Tables::new();
        for schedule in schedules.into_iter().flatten() {
            tables = tables.with_schedule(schedule)?;
        }
        match self {
            Engine::Gpu(gpu) => gpu.run(beta, schedules.map(|_| &tables)),
            Engine::Native(native) => native.run(beta, &tables),
            Engine::Reference(problem) => {
                let attention = problem.layer.attention().with_correction(beta)?;
                let mut output = Vec::new();
                for (at, step) in problem.steps.iter().enumerate() {
                    let tables = schedules.map_or(Tables::new(), |schedules| Tables::from(&schedules[at]));
                    let [q, k, v] = problem.inputs(&step.queries, step.shape.kv_len());
                    let exact = reference::attention(&attention, &step.shape, &q, &k, &v, &tables)?;
                    output.extend(exact.output.iter().map(|&x| x as f32));
                }
                Ok(output)
            }
        }
    }
}

impl Row {
    fn json(&self) -> Value {
        json!({
            "layer": self.layer,
            "rule": self.rule.name(),
            "budget": self.budget,
            "blocks": self.blocks,
            "error": mean(&self.errors),
            "standard_error": self.rule.is_drawn().then(|| standard_error(&self.errors)),
            "recall": self.recall,
            "bytes": self.bytes,
        })
    }

    fn error(&self) -> String {
        let error = format!("{:.4}", mean(&self.errors));
        if self.rule.is_drawn() {
            return format!("{error} ±{:<3.0}", 1e4 * standard_error(&self.errors));
        }
        format!("{error}     ")
    }
}

/// A layer's numbers: rules down, budgets across.
fn table(layer: u32, rows: &[Row]) -> String {
    let of = |rule| rows.iter().filter(move |row| row.layer == layer && row.rule == rule);
    let mut text = String::new();
    type Cell = fn(&Row) -> String;
    let numbers: [(&str, Cell); 3] = [
        ("error", Row::error),
        ("recall", |row| format!("{:.3}     ", row.recall)),
        ("KiB", |row| format!("{:.1}     ", row.bytes / 1024.0)),
    ];
    for (name, cell) in numbers {
        let _ = write!(text, "\nlayer {layer}, {:<16}", format!("{name} at"));
        for row in of(Rule::SinkWindow) {
            let _ = write!(text, "{:>13}", format!("{} blocks", row.budget));
        }
        text.push('\n');
        for rule in Rule::ALL {
            let _ = write!(text, "  {:<22}", rule.shown());
            let cells: String = of(rule).map(|row| format!("{:>13}", cell(row))).collect();
            text += cells.trim_end();
            text.push('\n');
        }
    }
    text
}

/// Error against blocks read.
fn error_picture(path: &Path, rows: &[Row], block: usize) -> Result<()> {
    let mut layers: Vec<u32> = rows.iter().map(|row| row.layer).collect();
    layers.dedup();
    let panel = |layer: u32| {
        let curve = |rule: Rule| {
            let of = rows.iter().filter(|row| row.layer == layer && row.rule == rule);
            let error = |row: &Row| if rule.is_drawn() { standard_error(&row.errors) } else { 0.0 };
            let points = of.map(|row| Point { x: row.blocks, y: mean(&row.errors), error: error(row) });
            Series { name: rule.shown().to_owned(), points: points.collect(), joined: true }
        };
        Panel { title: format!("layer {layer}"), series: Rule::ALL.map(curve).into() }
    };
    let panels: Vec<Panel> = layers.into_iter().map(panel).collect();
    let title = format!("blocks of {block} that a KV head reads for a query block");
    let across = Axis { title: &title, scale: Scale::Powers(2.0), ..Axis::default() };
    let up = Axis { title: "relative output error", scale: Scale::FromZero, ..Axis::default() };
    chart(path, [across, up], &panels)
}
