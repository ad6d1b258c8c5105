//! Staircase KV caches on the attention inputs of a real model: what they take and what they lose,
//! by rung and by age, against KIVI, a plain cache and sinks + window of the same bytes. Every
//! cache is filled token by token on the host and on the GPU, whose words must be the same, and the
//! GPU's attention over them is compared with the oracle's. Without an adapter it is the native
//! engine's attention over the host's words; by `--backend reference` the host alone.
//!
//! ```text
//! cargo run --release --example staircase
//! cargo run --release --example staircase -- --backend native
//! ```

use std::ops::Range;

use anyhow::{Result, ensure};
use clap::Parser;
use prflash::cache::{Chunk, HostCache, KvCache, KvInput, Ladder, SequenceId, Side, Staircase, StoredKeys};
use prflash::native::{HostView, HostViewMut, NativeOptions, NativePlan, NativeQueries};
use prflash::reference::{self, AgeLoss, cache_loss};
use prflash::{Attention, Context, ContextOptions, DType, Layout, Plan, Queries, Shape, Tables, Tensor};
use serde_json::{Value, json};
use testkit::backend::{Backend, Computing};
use testkit::chart::{Axis, Panel, Scale, Series, chart, chart_in_rows};
use testkit::example::{self, Progress};
use testkit::fixture::{self, Layer};

/// Compares staircase KV caches on real attention inputs.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    common: example::Common,
    #[command(flatten)]
    computing: Computing,
    /// Tokens of context, at most 3840.
    #[arg(long, default_value_t = 3840, default_value_if("quick", "true", "512"), value_parser = clap::value_parser!(u16).range(256..=3840))]
    tokens: u16,
    /// Decode steps that are measured, spread over the last eighth of the context.
    #[arg(long, default_value_t = 24, default_value_if("quick", "true", "8"), value_parser = clap::value_parser!(u16).range(1..=256))]
    steps: u16,
}

/// A cache to compare, and what was measured.
struct Preset {
    name: String,
    staircase: Staircase,
    /// Held at the end, for one layer; and what the formula says.
    bytes: u64,
    formula_bytes: u64,
    bits_per_element: f64,
    layers: Vec<Measured>,
    /// The largest deviation of an output of the GPU or of the native engine from the oracle over
    /// the same words, in units of the largest |v|; none by the reference.
    deviation: Option<f64>,
}

/// One sequence in a cache on the GPU.
struct OnGpu<'a> {
    context: &'a Context,
    cache: KvCache,
    input: KvInput,
    plan: Plan,
    sequence: SequenceId,
}

impl<'a> OnGpu<'a> {
    fn new(context: &'a Context, staircase: &Staircase, layer: &Layer) -> Result<Self> {
        let shape = &layer.shape;
        let mut cache = KvCache::new(context, staircase.clone(), shape, StoredKeys::AfterRotation)?;
        let layout = Layout::heads_first(1, 1, shape.kv_len(), shape.head_dim())?;
        let upload = |rows: &[f32]| Tensor::upload(context, DType::F32, layout, rows);
        let input = cache.input(upload(&layer.k)?.view(), upload(&layer.v)?.view())?;
        let plan = Attention::causal().plan_cached(&cache, &shape.with_q_len(1)?)?;
        let sequence = cache.add();
        Ok(Self { context, cache, input, plan, sequence })
    }

    /// Appends tokens up to `len`, one at a time.
    fn append_up_to(&mut self, len: usize) -> Result<()> {
        let mut encoder = self.context.device().create_command_encoder(&Default::default());
        for token in self.cache.len(self.sequence)?..len {
            let chunk = Chunk { sequence: self.sequence, entry: 0, rows: token..token + 1 };
            self.cache.append(&mut encoder, &self.input, &[chunk])?;
        }
        self.context.queue().submit([encoder.finish()]);
        Ok(())
    }

    /// Attention of the newest token's queries, `[heads, channels]`.
    fn attend(&self, q: &[f32], shape: &Shape) -> Result<Vec<f32>> {
        let layout = Layout::heads_first(1, shape.heads(), 1, shape.head_dim())?;
        let q = Tensor::upload(self.context, DType::F32, layout, q)?;
        let queries = queries(self.sequence);
        let result = self.plan.run_cached(&self.cache, q.view(), &queries, &Tables::new())?;
        Ok(result.output.read_blocking(self.context)?)
    }
}

/// The queries of a step, which are the sequence's last token.
fn queries(sequence: SequenceId) -> [Queries; 1] {
    [Queries { sequence, entry: 0, rows: 0..1, positions: None }]
}

/// Attention of the newest token's queries over a cache in host memory, `[heads, channels]`.
fn attend_natively(
    plan: &NativePlan,
    cache: &HostCache,
    sequence: SequenceId,
    q: &[f32],
) -> Result<Vec<f32>> {
    let layout = Layout::heads_first(1, plan.maxima().heads(), 1, plan.maxima().head_dim())?;
    let mut output = vec![0.0; layout.elements()];
    let mut operands = NativeQueries {
        q: HostView::new(q, layout)?,
        output: HostViewMut::new(&mut output[..], layout)?,
        lse: None,
    };
    plan.run_cached(cache, &mut operands, &queries(sequence), &Tables::new())?;
    Ok(output)
}

/// Means (root mean squares) over the decode steps of one layer, or of several.
#[derive(Default)]
struct Measured {
    output: Mean,
    /// By age in tokens: 0..128, 128..256, 256..512 …
    ages: Vec<Bucket>,
    /// By (key bits, value bits), with the sinks and the residual apart.
    rungs: Vec<Bucket>,
}

struct Bucket {
    label: String,
    tokens: usize,
    score: Mean,
    output: Mean,
    mass: f64,
}

#[derive(Clone, Copy, Default)]
struct Mean {
    squares: f64,
    count: f64,
}

impl Mean {
    fn add(&mut self, x: f64) {
        *self = Self { squares: self.squares + x * x, count: self.count + 1.0 };
    }

    fn merge(&mut self, other: Mean) {
        *self = Self { squares: self.squares + other.squares, count: self.count + other.count };
    }

    /// NaN (in JSON null) if there was nothing to measure.
    fn root(self) -> f64 {
        (self.squares / self.count).sqrt()
    }
}

impl Bucket {
    /// The bucket with this label; a new one if there is none.
    fn of(buckets: &mut Vec<Bucket>, label: String) -> &mut Bucket {
        let at = buckets.iter().position(|bucket| bucket.label == label).unwrap_or(buckets.len());
        if at == buckets.len() {
            let (score, output) = (Mean::default(), Mean::default());
            buckets.push(Bucket { label, tokens: 0, score, output, mass: 0.0 });
        }
        &mut buckets[at]
    }

    fn add(&mut self, loss: &AgeLoss) {
        self.tokens = loss.tokens.len();
        loss.score_error.into_iter().for_each(|error| self.score.add(error));
        self.output.add(loss.output_error);
        self.mass += loss.mass;
    }
}

impl Measured {
    /// Over all layers.
    fn all(layers: &[Measured]) -> Measured {
        let mut all = Measured::default();
        for layer in layers {
            all.output.merge(layer.output);
            for (from, to) in [(&layer.ages, &mut all.ages), (&layer.rungs, &mut all.rungs)] {
                for bucket in from {
                    let sum = Bucket::of(to, bucket.label.clone());
                    sum.tokens = bucket.tokens;
                    sum.score.merge(bucket.score);
                    sum.output.merge(bucket.output);
                    sum.mass += bucket.mass;
                }
            }
        }
        all
    }

    fn rows(buckets: &[Bucket], label: &str) -> Vec<Value> {
        let row = |bucket: &Bucket| {
            json!({
                label: bucket.label, "tokens": bucket.tokens, "score_error": bucket.score.root(),
                "output_error": bucket.output.root(), "mass": bucket.mass / bucket.output.count,
            })
        };
        buckets.iter().map(row).collect()
    }
}

fn main() -> Result<()> {
    env_logger::init();
    let (arguments, usual) = example::parse::<Arguments>();
    let layers = fixture::load(arguments.tokens.into())?;
    let shape = layers[0].shape;
    let backend = arguments.computing.open(ContextOptions::new())?;
    let mut presets = presets(&shape)?;
    let mut progress = Progress::new();
    let caches = presets.len();
    for (at, preset) in presets.iter_mut().enumerate() {
        for layer in &layers {
            let name = example::spoken(&preset.name);
            progress.tell(format!("Cache {} of {caches}: {name}, layer {}", at + 1, layer.index));
            preset.measure(&backend, layer, arguments.steps.into())?;
        }
    }
    progress.done(format!("{caches} caches"));
    let folder = arguments.common.folder("staircase", usual)?;
    let pictures = [folder.join("bits_vs_age.svg"), folder.join("error_vs_bytes.svg")];
    let shown = presets.iter().filter(|p| ["paper", "recommended", "kivi-4", "kivi-2"].contains(&&*p.name));
    let ladders: Vec<_> = shown.map(|preset| preset.bits_by_age(&shape)).collect();
    let age = Axis {
        title: "age in tokens, the newest at the left",
        scale: Scale::Powers(10.0),
        ..Axis::default()
    };
    let bits = Axis { title: "bits", scale: Scale::Powers(2.0), ..Axis::default() };
    chart_in_rows(&pictures[0], [age, bits], &ladders, 2)?;
    let errors = |(at, layer): (usize, &Layer)| {
        let curve = |prefix: &str| {
            let mut points: Vec<(f64, f64)> = presets
                .iter()
                .filter(|preset| preset.name.starts_with(prefix))
                .map(|preset| (preset.bits_per_element, preset.layers[at].output.root()))
                .collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            Series::line(example::spoken(prefix.trim_end_matches('-')), points)
        };
        let names = ["kivi-", "sink_window", "planned", "paper", "recommended"];
        Panel { title: format!("layer {}", layer.index), series: names.map(curve).into() }
    };
    let panels: Vec<_> = layers.iter().enumerate().map(errors).collect();
    let size = Axis { title: "bits per element", scale: Scale::FromZero, ..Axis::default() };
    let error = Axis { title: "relative output error", scale: Scale::Powers(10.0), ..Axis::default() };
    chart(&pictures[1], [size, error], &panels)?;

    if arguments.common.json {
        let rows: Vec<Value> = presets.iter().map(|preset| preset.json(&backend, &layers)).collect();
        let fields = json!({ "tokens": arguments.tokens, "steps": arguments.steps, "presets": rows });
        println!("{}", backend.object("staircase", &pictures, fields)?);
        return Ok(());
    }
    match &backend {
        Backend::Gpu(_) => println!("{backend}: the same words as on the host in every cache\n"),
        Backend::Native => println!("{backend}, over the words of the host\n"),
        Backend::Reference => println!("The reference: the host alone\n"),
    }
    print(&presets, &layers, matches!(backend, Backend::Native));
    println!("\nPictures  {}\n          {}", pictures[0].display(), pictures[1].display());
    Ok(())
}

/// KIVI, the two presets, staircases that the planner finds for the same bytes, and sinks + window
/// of the same bytes as each.
fn presets(shape: &Shape) -> Result<Vec<Preset>> {
    let len = shape.kv_len();
    let bytes = |staircase: &Staircase| staircase.standing(len).memory(shape).total();
    let graded = Staircase::new(Ladder::new(&[(8, 2)], 4)?, Ladder::new(&[(8, 2), (4, 3)], 2)?)?;
    let mut named = vec![
        ("recommended".to_owned(), Staircase::recommended()),
        ("paper".to_owned(), Staircase::paper()),
        ("K 8×2→4, V 8×2→4×3→2".to_owned(), graded),
    ];
    for bits in [2, 3, 4, 8] {
        named.push((format!("kivi-{bits}"), Staircase::kivi(bits)?));
    }
    for like in ["recommended", "kivi-2", "kivi-4"] {
        let Some(budget) = named.iter().find(|(name, _)| name == like).map(|(_, like)| bytes(like)) else {
            continue;
        };
        if let Some(fit) = Staircase::recommended().fitting(budget, len, shape).into_iter().next() {
            named.push((format!("planned like {like}"), fit.staircase));
        }
        // The longest window that fits, in steps of short segments.
        let window = |tokens: usize| Staircase::streaming(tokens).and_then(|s| s.with_segment(32));
        let mut best = window(32)?;
        for tokens in (32..=len).rev().step_by(32) {
            let streaming = window(tokens)?;
            if bytes(&streaming) <= budget {
                best = streaming;
                break;
            }
        }
        named.push((format!("sink_window like {like}"), best));
    }
    named.push(("plain".into(), Staircase::plain()));
    let preset = |(name, staircase): (String, Staircase)| {
        let standing = staircase.standing(len);
        let formula_bytes = standing.memory(shape).total();
        let bits_per_element = standing.bits_per_element(shape);
        Preset {
            name,
            staircase,
            bytes: 0,
            formula_bytes,
            bits_per_element,
            layers: Vec::new(),
            deviation: None,
        }
    };
    Ok(named.into_iter().map(preset).collect())
}

impl Preset {
    /// Appends token by token, and at some steps near the end compares attention of the newest
    /// token's queries.
    fn measure(&mut self, backend: &Backend, layer: &Layer, steps: usize) -> Result<()> {
        let shape = &layer.shape;
        let (len, dim) = (shape.kv_len(), shape.head_dim());
        let mut cache = HostCache::new(self.staircase.clone(), shape, StoredKeys::AfterRotation)?;
        let sequence = cache.add();
        let on_gpu = backend.context().map(|context| OnGpu::new(context, &self.staircase, layer));
        let mut on_gpu = on_gpu.transpose()?;
        let attention = Attention::causal();
        let native = match backend {
            Backend::Native => Some(attention.plan_native(&shape.with_q_len(1)?, &NativeOptions::new())?),
            Backend::Gpu(_) | Backend::Reference => None,
        };
        let mut measured = Measured::default();
        let first = len - len / 8;
        for token in 0..len {
            // One KV head: a token's row is contiguous.
            let row = token * dim..(token + 1) * dim;
            cache.append(sequence, &layer.k[row.clone()], &layer.v[row])?;
            let due = |token: usize| token.saturating_sub(first) * steps / (len - first);
            if token < first || due(token) == due(token + 1) {
                continue;
            }
            let q: Vec<f32> = layer
                .q
                .chunks_exact(len * dim)
                .flat_map(|head| &head[token * dim..][..dim])
                .copied()
                .collect();
            let now = token + 1;
            let step = shape.with_q_len(1)?.with_kv_len(now)?;
            let history = (&layer.k[..now * dim], &layer.v[..now * dim]);
            let octaves = octaves(now);
            let standing = cache.standing(sequence)?;
            let stretches = standing.stretches();
            let ranges: Vec<Range<usize>> =
                octaves.iter().cloned().chain(stretches.iter().map(|stretch| stretch.0.clone())).collect();
            let got = match (&mut on_gpu, &native) {
                (Some(gpu), _) => {
                    gpu.append_up_to(now)?;
                    Some(gpu.attend(&q, shape)?)
                }
                (None, Some(plan)) => Some(attend_natively(plan, &cache, sequence, &q)?),
                (None, None) => None,
            };
            if let Some(got) = got {
                let tables = Tables::new();
                let exact = reference::attention_cached(&attention, &step, &q, &cache, sequence, &tables)?;
                let apart = got.iter().zip(&exact.output).map(|(&got, want)| (f64::from(got) - want).abs());
                let deviation = apart.fold(0.0, f64::max) / layer.max_value();
                self.deviation = Some(deviation.max(self.deviation.unwrap_or(0.0)));
            }
            let loss = cache_loss(&attention, &step, &q, history, &cache, sequence, &Tables::new(), &ranges)?;
            measured.output.add(loss.output_error);
            for (tokens, loss) in octaves.iter().zip(&loss.ages) {
                let label = format!("{}..{}", now - tokens.end, (now - tokens.end).max(64) * 2);
                Bucket::of(&mut measured.ages, label).add(loss);
            }
            for ((tokens, keys, values), loss) in stretches.iter().zip(&loss.ages[octaves.len()..]) {
                let label = match (tokens.end, *keys) {
                    (end, 16) if end <= self.staircase.sinks() => "sinks".to_owned(),
                    (_, 0) => "dropped".to_owned(),
                    _ if tokens.end == now => "newest".to_owned(),
                    _ => format!("K {keys} V {values}"),
                };
                Bucket::of(&mut measured.rungs, label).add(loss);
            }
        }
        if let Some(gpu) = &mut on_gpu {
            gpu.append_up_to(len)?;
            gpu.cache.check_blocking()?;
            ensure!(gpu.cache.live_bytes() == cache.live_bytes(), "the GPU's cache has another size");
            let same = gpu.cache.save_blocking(gpu.sequence)? == cache.save(sequence)?;
            ensure!(same, "{}: the GPU's words differ from the host's", self.name);
        }
        self.bytes = cache.live_bytes();
        self.layers.push(measured);
        Ok(())
    }

    /// Bits of keys and of values by age, the tokens that are kept for ever apart.
    fn bits_by_age(&self, shape: &Shape) -> Panel {
        let len = shape.kv_len();
        let stretches = self.staircase.standing(len).stretches();
        let sinks = self.staircase.sinks();
        // A line for both would hide one of them where they are the same.
        let raised = |side| if side == Side::Values { 1.05 } else { 1.0 };
        let at = |tokens: &Range<usize>, bits: u32, side| {
            let bits = f64::from(bits) * raised(side);
            [((len - tokens.end + 1) as f64, bits), ((len - tokens.start) as f64, bits)]
        };
        let of = |side, keys: &u32, values: &u32| if side == Side::Keys { *keys } else { *values };
        let aged = |side| {
            let aged = stretches.iter().rev().filter(|(tokens, ..)| tokens.start >= sinks);
            aged.flat_map(|(tokens, keys, values)| at(tokens, of(side, keys, values), side))
                .collect::<Vec<_>>()
        };
        let first = stretches.iter().filter(|(tokens, ..)| tokens.start < sinks);
        let first = first.flat_map(|(tokens, keys, values)| at(tokens, *keys.max(values), Side::Keys));
        let mut series = vec![
            Series::line("keys", aged(Side::Keys)),
            Series::line("values, drawn a little higher", aged(Side::Values)),
        ];
        if sinks > 0 {
            let name = "sinks: they never step down";
            series.push(Series { joined: false, ..Series::line(name, first) });
        }
        let kept = match sinks {
            0 => "no sinks".to_owned(),
            sinks => format!("the first {sinks} tokens are sinks"),
        };
        Panel { title: format!("{}: {kept}", self.name), series }
    }

    fn json(&self, backend: &Backend, layers: &[Layer]) -> Value {
        let all = Measured::all(&self.layers);
        let layer = |(layer, measured): (&Layer, &Measured)| {
            json!({
                "layer": layer.index,
                "output_error": measured.output.root(),
                "error_by_age": Measured::rows(&measured.ages, "age"),
                "error_by_rung": Measured::rows(&measured.rungs, "rung"),
            })
        };
        json!({
            "name": self.name,
            "keys": self.staircase.ladder(Side::Keys).to_string(),
            "values": self.staircase.ladder(Side::Values).to_string(),
            "bytes": self.bytes,
            "formula_bytes": self.formula_bytes,
            "bits_per_element": self.bits_per_element,
            "output_error": all.output.root(),
            "gpu_deviation": self.deviation.filter(|_| matches!(backend, Backend::Gpu(_))),
            "native_deviation": self.deviation.filter(|_| matches!(backend, Backend::Native)),
            "error_by_age": Measured::rows(&all.ages, "age"),
            "error_by_rung": Measured::rows(&all.rungs, "rung"),
            "layers": layers.iter().zip(&self.layers).map(layer).collect::<Vec<_>>(),
        })
    }
}

/// Tokens by age: the newest 128, those before to age 256, 512 …; newest first.
fn octaves(len: usize) -> Vec<Range<usize>> {
    let (mut ranges, mut young, mut old) = (Vec::new(), 0, 128);
    while young < len {
        ranges.push(len.saturating_sub(old)..len - young);
        (young, old) = (old, 2 * old);
    }
    ranges
}

fn print(presets: &[Preset], layers: &[Layer], native: bool) {
    println!("{} tokens, one KV head of {} channels\n", layers[0].shape.kv_len(), layers[0].shape.head_dim());
    println!("{}\n", Staircase::recommended());
    print!("{:<30}{:<14}{:<22}{:>9}{:>6}", "cache", "keys", "values", "bytes", "bits");
    layers.iter().for_each(|layer| print!("{:>10}", format!("layer {}", layer.index)));
    println!(
        "   (relative output error){}",
        match presets[0].deviation {
            Some(_) if native => "   native − oracle",
            Some(_) => "   GPU − oracle",
            None => "",
        }
    );
    for preset in presets {
        let ladder = |side| preset.staircase.ladder(side).to_string().replace(" → ", "→");
        let (keys, values) = (ladder(Side::Keys), ladder(Side::Values));
        let marker = if preset.bytes == preset.formula_bytes { "" } else { " (not the formula's)" };
        print!(
            "{:<30}{keys:<14}{values:<22}{:>9}{:>6.2}",
            example::spoken(&preset.name),
            preset.bytes,
            preset.bits_per_element
        );
        preset.layers.iter().for_each(|measured| print!("{:>10.4}", measured.output.root()));
        match preset.deviation {
            Some(deviation) => println!("{:>38.1e}{marker}", deviation),
            None => println!("{marker}"),
        }
    }
    for preset in presets.iter().filter(|p| ["recommended", "paper", "kivi-4"].contains(&&*p.name)) {
        println!("\n{}: key-score error (nats) and share of the output error", preset.name);
        for (layer, measured) in layers.iter().zip(&preset.layers) {
            for bucket in measured.ages.iter().chain(&measured.rungs) {
                println!(
                    "  layer {:<3} {:<12} {:>5} tokens   score {:>8.4}   output {:>8.5}   mass {:>6.3}",
                    layer.index,
                    bucket.label,
                    bucket.tokens,
                    bucket.score.root(),
                    bucket.output.root(),
                    bucket.mass / bucket.output.count
                );
            }
        }
    }
}
