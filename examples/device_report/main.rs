//! What a device offers, which kernels it is given and why, how fast they are there, and whether
//! they are right, beside the native engine on this machine's cores: to paste into an issue.
//!
//! ```text
//! cargo run --release --example device_report            # text; minutes on a software device
//! cargo run --release --example device_report -- --json  # for machines
//! cargo run --release --example device_report -- --quick # only the kernels that plans choose here
//! cargo run --release --example device_report -- --backend native # the native engine alone
//! ```

mod native;

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use native::Native;
use prflash::cache::{Chunk, KvCache, Staircase, StoredKeys};
use prflash::device::Timings;
use prflash::kernels::{Decode, Kernel, Matrix, Tile};
use prflash::position::Pairing;
use prflash::verify::{Tolerances, compare};
use prflash::{
    Attention, Call, Context, ContextOptions, DType, Layout, Operands, PlanOptions, Positions, Queries, Rope,
    Shape, Tables, Tensor, reference, wgpu,
};
use serde_json::{Value, json};
use testkit::backend::{Backend, Computing};
use testkit::example::{self, Progress};
use testkit::files;

/// Reports what a device offers, which kernels run on it, how fast, and how exactly.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    common: example::Common,
    #[command(flatten)]
    computing: Computing,
    /// Tokens of prefill.
    #[arg(long, default_value_t = 1024, default_value_if("quick", "true", "128"), value_parser = clap::value_parser!(u32).range(1..=32_768))]
    tokens: u32,
    /// Tokens before a decoded one.
    #[arg(long, default_value_t = 8192, default_value_if("quick", "true", "512"), value_parser = clap::value_parser!(u32).range(1..=131_072))]
    history: u32,
    /// How often each is timed; medians are printed.
    #[arg(long, default_value_t = 7, default_value_if("quick", "true", "1"), value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Without wgpu's own checks in shaders.
    #[arg(long)]
    trusted: bool,
    /// With matrix units where the adapter lists them (ContextOptions::cooperative_matrices).
    #[arg(long)]
    cooperative: bool,
}

/// A kernel that a plan chose by itself.
struct Choice {
    case: &'static str,
    kernel: Kernel,
    reason: String,
}

/// A call to measure.
struct Case {
    name: String,
    flops: f64,
    /// The bytes of queries, keys, values and results, each once.
    bytes: f64,
}

/// A measured call.
struct Speed {
    case: Case,
    kernel: Kernel,
    timings: Timings,
}

/// A kernel that may run here.
struct Variant {
    kernel: Kernel,
    /// Or why not.
    found: Result<Found, String>,
}

struct Found {
    gflops: f64,
    /// Over the small problems, and whether all were within what f32 arithmetic may deviate.
    max_abs_error: f64,
    passed: bool,
}

fn main() -> Result<()> {
    env_logger::init();
    let (arguments, usual) = example::parse::<Arguments>();
    let options =
        ContextOptions::new().trusted_shaders(arguments.trusted).cooperative_matrices(arguments.cooperative);
    let backend = arguments.computing.open(options)?;
    if matches!(backend, Backend::Reference) {
        let message = "--backend reference: reports compare with it; expected gpu or native";
        Arguments::command().error(ErrorKind::InvalidValue, message).exit();
    }
    let mut progress = Progress::new();
    let device = backend.context().map(|context| Device::measure(context, &arguments, &mut progress));
    let device = device.transpose()?;
    let native = Native::measure(&arguments, &mut progress)?;
    let checked = device.as_ref().map_or(0, |device| device.variants.len());
    progress.done(format!("Measured, and {checked} kernels checked"));
    let mut fields = json!({
        "prflash": env!("CARGO_PKG_VERSION"),
        "tokens": arguments.tokens,
        "history": arguments.history,
        "rounds": arguments.rounds,
        "native": native.json(),
    });
    if let (Value::Object(all), Some(device)) = (&mut fields, &device) {
        all.extend(device.fields());
    }
    let object = backend.object("device_report", &[], fields)?;
    let path = arguments.common.folder("device_report", usual)?.join("device_report.json");
    files::write(&path, &object)?;
    if arguments.common.json {
        println!("{object}");
    } else {
        println!("prflash {} on {backend}", env!("CARGO_PKG_VERSION"));
        if let Some(device) = &device {
            device.print(&arguments);
        }
        native.print(arguments.rounds.into());
        println!("\nThe same for machines: {}", path.display());
    }
    let mut wrong = native.wrong();
    wrong.extend(device.iter().flat_map(Device::wrong));
    ensure!(wrong.is_empty(), "past the tolerance on this device: {}", wrong.join(", "));
    Ok(())
}

/// All that is told of a device.
struct Device<'a> {
    context: &'a Context,
    choices: Vec<Choice>,
    speeds: Vec<Speed>,
    variants: Vec<Variant>,
}

impl<'a> Device<'a> {
    fn measure(context: &'a Context, arguments: &Arguments, progress: &mut Progress) -> Result<Self> {
        progress.tell("Asking plans for their kernels …");
        let choices = choices(context)?;
        let speeds = speeds(context, arguments, progress)?;
        let mut all = kernels();
        if arguments.common.quick {
            // Compiling the others is what takes long, on a software device.
            let chosen = |kernel: &Kernel| choices.iter().any(|choice| choice.kernel == *kernel);
            all.retain(|kernel| *kernel == Kernel::Naive || chosen(kernel));
        }
        let variants = all.iter().enumerate().map(|(at, &kernel)| {
            progress.tell(format!("Kernel {} of {}: {kernel}", at + 1, all.len()));
            variant(context, kernel, arguments)
        });
        let variants = variants.collect::<Result<Vec<_>>>()?;
        Ok(Self { context, choices, speeds, variants })
    }

    /// The kernels past the tolerance.
    fn wrong(&self) -> Vec<String> {
        let wrong = |variant: &&Variant| variant.found.as_ref().is_ok_and(|found| !found.passed);
        self.variants.iter().filter(wrong).map(|variant| variant.kernel.to_string()).collect()
    }
}

/// What plans choose for shapes that models have.
fn choices(context: &Context) -> Result<Vec<Choice>> {
    let rope = Positions::new().with_rope(Rope::new(128, 10_000.0, Pairing::Half)?);
    let f16 = Attention::causal().with_storage(DType::F16);
    let prefill = |heads, kv_heads, dim| Shape::new(heads, kv_heads, 1024, dim);
    let decode = |queries| Shape::new(32, 8, 8192, 128)?.with_q_len(queries);
    let plans = [
        ("prefill, D = 64", Attention::causal(), prefill(8, 2, 64)?),
        ("prefill, D = 128", Attention::causal(), prefill(32, 8, 128)?),
        ("prefill, D = 128, f16", f16.clone(), prefill(32, 8, 128)?),
        ("prefill, D = 256", Attention::causal(), prefill(4, 1, 256)?),
        ("prefill, D = 128, rotated", Attention::causal().with_positions(rope), prefill(32, 8, 128)?),
        ("decode, D = 128", Attention::causal(), decode(1)?),
        ("decode, D = 128, f16", f16, decode(1)?),
        ("4 speculated tokens, D = 128", Attention::causal(), decode(4)?),
    ];
    let mut choices = Vec::new();
    for (case, attention, shape) in plans {
        let plan = attention.plan(context, &shape)?;
        choices.push(Choice { case, kernel: plan.kernel(), reason: plan.kernel_reason().to_owned() });
    }
    let shape = Shape::new(32, 8, 1024, 128)?;
    let cache = KvCache::new(context, Staircase::recommended(), &shape, StoredKeys::AfterRotation)?;
    for (case, queries) in [("decode from a cache, D = 128", 1), ("prefill over a cache, D = 128", 512)] {
        let plan = Attention::causal().plan_cached(&cache, &shape.with_q_len(queries)?)?;
        choices.push(Choice { case, kernel: plan.kernel(), reason: plan.kernel_reason().to_owned() });
    }
    Ok(choices)
}

/// Numbers in [−1, 1) without a pattern that matters.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| (((i + seed) * 7919) % 997) as f32 / 498.5 - 1.0).collect()
}

fn tensor(context: &Context, dtype: DType, heads: usize, len: usize, dim: usize) -> Result<Tensor> {
    let layout = Layout::heads_first(1, heads, len, dim)?;
    Ok(Tensor::upload(context, dtype, layout, &numbers(layout.elements(), 0))?)
}

/// Times one call of whole tensors.
fn time(
    context: &Context,
    (attention, options): (&Attention, &PlanOptions),
    shape: &Shape,
    rounds: usize,
) -> Result<(Kernel, Timings)> {
    let dtype = attention.storage();
    let (heads, kv_heads, dim) = (shape.heads(), shape.kv_heads(), shape.head_dim());
    let q = tensor(context, dtype, heads, shape.q_len(), dim)?;
    let k = tensor(context, dtype, kv_heads, shape.kv_len(), dim)?;
    let v = tensor(context, dtype, kv_heads, shape.kv_len(), dim)?;
    let output = Layout::heads_first(1, heads, shape.q_len(), dim)?;
    let output = Tensor::zeros(context, attention.output(), output)?;
    let plan = attention.plan_with(context, shape, options)?;
    let operands = Operands { q: q.view(), k: k.view(), v: v.view(), output: output.view(), lse: None };
    let bound = plan.bind(&operands)?;
    let timings = plan.timings(&bound, &Call::lengths(shape.q_len(), shape.kv_len()), rounds)?;
    Ok((plan.kernel(), timings))
}

/// Two prompts, and a step of decoding.
fn shapes(arguments: &Arguments) -> Result<[(&'static str, Shape); 3]> {
    let (tokens, history) = (arguments.tokens as usize, arguments.history as usize);
    Ok([
        ("S1", Shape::new(8, 2, tokens, 64)?),
        ("S3", Shape::new(32, 8, tokens, 128)?),
        ("S4", Shape::new(32, 8, history, 128)?.with_q_len(1)?),
    ])
}

impl Case {
    fn of_tensors(name: &str, shape: &Shape, dtype: DType) -> Self {
        let (heads, kv_heads, dim) = (shape.heads(), shape.kv_heads(), shape.head_dim());
        let (q_len, kv_len) = (shape.q_len(), shape.kv_len());
        let (queries, keys) = (heads * q_len * dim, kv_heads * kv_len * dim);
        Self {
            name: format!(
                "{name}: {heads} / {kv_heads} heads, {q_len} of {kv_len} tokens, D = {dim}, {dtype}"
            ),
            flops: shape.dense_flops(true),
            bytes: ((queries + 2 * keys) * dtype.size() + 4 * queries) as f64,
        }
    }

    /// A step of decoding from the recommended cache, which has so many bytes.
    fn of_cache(shape: &Shape, bytes: u64) -> Self {
        let (heads, kv_heads, dim) = (shape.heads(), shape.kv_heads(), shape.head_dim());
        let len = shape.kv_len();
        Self {
            name: format!("S4: {heads} / {kv_heads} heads, 1 of {len} tokens, D = {dim}, recommended cache"),
            flops: shape.dense_flops(true),
            bytes: bytes as f64 + (8 * heads * dim) as f64,
        }
    }
}

fn speeds(context: &Context, arguments: &Arguments, progress: &mut Progress) -> Result<Vec<Speed>> {
    let rounds = arguments.rounds.into();
    let mut speeds = Vec::new();
    for (name, shape) in shapes(arguments)? {
        for dtype in [DType::F32, DType::F16] {
            progress.tell(format!("Timing {name} in {dtype} …"));
            let attention = Attention::causal().with_storage(dtype);
            let (kernel, timings) = time(context, (&attention, &PlanOptions::new()), &shape, rounds)?;
            speeds.push(Speed { case: Case::of_tensors(name, &shape, dtype), kernel, timings });
        }
    }
    progress.tell("Timing S4 from the recommended cache …");
    speeds.push(cached(context, &shapes(arguments)?[2].1, rounds)?);
    Ok(speeds)
}

/// Decode from the recommended cache.
fn cached(context: &Context, shape: &Shape, rounds: usize) -> Result<Speed> {
    const CHUNK: usize = 2048;
    let (heads, len, dim) = (shape.kv_heads(), shape.kv_len(), shape.head_dim());
    let mut cache = KvCache::new(context, Staircase::recommended(), shape, StoredKeys::AfterRotation)?;
    let (k, v) = (
        tensor(context, DType::F32, heads, CHUNK.min(len), dim)?,
        tensor(context, DType::F32, heads, CHUNK.min(len), dim)?,
    );
    let input = cache.input(k.view(), v.view())?;
    let sequence = cache.add();
    for start in (0..len).step_by(CHUNK) {
        let mut encoder = context.device().create_command_encoder(&Default::default());
        cache.append(
            &mut encoder,
            &input,
            &[Chunk { sequence, entry: 0, rows: 0..CHUNK.min(len - start) }],
        )?;
        context.queue().submit([encoder.finish()]);
    }
    let plan = Attention::causal().plan_cached(&cache, shape)?;
    let q = tensor(context, DType::F32, shape.heads(), 1, dim)?;
    let output = Tensor::zeros(context, DType::F32, Layout::heads_first(1, shape.heads(), 1, dim)?)?;
    let bound = plan.bind_queries(q.view(), output.view(), None)?;
    Ok(Speed {
        case: Case::of_cache(shape, cache.memory(sequence)?.total()),
        kernel: plan.kernel(),
        timings: plan.timings(
            &bound,
            &Call::cached(&cache, &[Queries { sequence, entry: 0, rows: 0..1, positions: None }]),
            rounds,
        )?,
    })
}

/// The kernels that some plan chooses by itself on some device.
fn kernels() -> Vec<Kernel> {
    let tiles = [(4, 4, true), (2, 4, true), (1, 4, true), (1, 4, false), (1, 2, false), (1, 1, false)];
    let tiles = tiles.into_iter().filter_map(|(rows, keys, staged)| Tile::new(rows, keys, staged).ok());
    let row_sets = [1, 2, 4, 8].into_iter().flat_map(|sets| [(sets, true), (sets, false)]);
    let decodes = row_sets.filter_map(|(sets, quads)| Decode::new(sets, quads).ok());
    let halves =
        [(1, 4), (1, 2), (1, 1)].into_iter().filter_map(|(rows, keys)| Tile::new(rows, keys, false).ok());
    let tiles = tiles.chain(halves.map(|tile| tile.with_f16_products(true)));
    let shared = [(2, false), (2, true), (4, false), (4, true)];
    let shared =
        shared.map(|(parts, staged)| Tile::new(1, 4, staged).and_then(|tile| tile.with_slices(parts)));
    let tiles = tiles.chain(shared.into_iter().flatten());
    let matrices = [(16, true), (16, false), (8, true), (8, false)];
    let matrices = matrices.into_iter().filter_map(|(edge, padded)| Matrix::new(edge, padded, false).ok());
    let kernels = [Kernel::Naive].into_iter().chain(tiles.map(Kernel::Tiled));
    kernels.chain(decodes.map(Kernel::Decode)).chain(matrices.map(Kernel::Matrix)).collect()
}

/// What a kernel's problems are stored in: each type in turn, f32 first, where it takes them all.
fn storage(kernel: Kernel, case: usize) -> DType {
    match kernel {
        Kernel::Matrix(_) => DType::F16,
        Kernel::Tiled(tile) if tile.uses_f16_products() => DType::F16,
        _ => DType::ALL[case % DType::ALL.len()],
    }
}

/// Runs a kernel against the oracle on small problems, and times it on a larger one of its kind.
fn variant(context: &Context, kernel: Kernel, arguments: &Arguments) -> Result<Variant> {
    let few = matches!(kernel, Kernel::Decode(_));
    let mut found = Found { gflops: 0.0, max_abs_error: 0.0, passed: true };
    for (case, dim) in [64, 80, 128].into_iter().enumerate() {
        let dtype = storage(kernel, case);
        let attention = Attention::causal().with_storage(dtype);
        let options = PlanOptions::new().with_kernel(kernel);
        let shape = Shape::new(4, 2, if few { 3 } else { 150 }, dim)?.with_kv_len(300)?;
        let plan = match attention.plan_with(context, &shape, &options) {
            Ok(plan) => plan,
            Err(error) if error.is_unsupported() => {
                return Ok(Variant { kernel, found: Err(error.to_string()) });
            }
            Err(error) => return Err(error.into()),
        };
        let values = |heads: usize, len: usize, seed| {
            let values: Vec<f32> =
                numbers(heads * len * dim, seed).into_iter().map(|x| dtype.round(2.0 * x)).collect();
            let tensor = Tensor::upload(context, dtype, Layout::heads_first(1, heads, len, dim)?, &values)?;
            Ok::<_, anyhow::Error>((values, tensor))
        };
        let [(q, q_tensor), (k, k_tensor), (v, v_tensor)] =
            [values(4, shape.q_len(), 1)?, values(2, 300, 2)?, values(2, 300, 3)?];
        let got = plan.run(q_tensor.view(), k_tensor.view(), v_tensor.view(), &Tables::new())?;
        let got = got.output.read_blocking(context)?;
        let exact = reference::attention(&attention, &shape, &q, &k, &v, &Tables::new())?;
        let report =
            compare(&got, &exact.output, Tolerances::of_kernel_output(kernel, &exact, &shape, DType::F32))?;
        found.max_abs_error = found.max_abs_error.max(report.max_abs_error);
        found.passed &= report.passed();
    }
    let shape = match few {
        true => Shape::new(32, 8, arguments.history as usize, 128)?.with_q_len(1)?,
        false => Shape::new(8, 2, arguments.tokens as usize, 64)?,
    };
    let attention = Attention::causal().with_storage(storage(kernel, 0));
    let options = PlanOptions::new().with_kernel(kernel);
    let (_, timings) = time(context, (&attention, &options), &shape, arguments.rounds.into())?;
    found.gflops = shape.dense_flops(true) / timings.median_wall().as_secs_f64() / 1e9;
    Ok(Variant { kernel, found: Ok(found) })
}

impl Variant {
    /// The cases that a plan chooses it for here.
    fn chosen_for<'c>(&self, choices: &'c [Choice]) -> Vec<&'c str> {
        choices.iter().filter(|choice| choice.kernel == self.kernel).map(|choice| choice.case).collect()
    }

    /// Why it is chosen, or can't run, or neither.
    fn reason(&self, choices: &[Choice]) -> String {
        match (&self.found, choices.iter().find(|choice| choice.kernel == self.kernel)) {
            (Err(error), _) => error.clone(),
            (Ok(_), Some(choice)) => choice.reason.clone(),
            (Ok(_), None) => "runs; another is chosen for the common shapes".to_owned(),
        }
    }
}

impl Speed {
    fn per_second(&self, amount: f64) -> f64 {
        amount / self.timings.median_wall().as_secs_f64() / 1e9
    }
}

/// Limits that decide something, by name.
fn limits(context: &Context) -> BTreeMap<&'static str, u64> {
    let (limits, capabilities) = (context.device().limits(), context.capabilities());
    BTreeMap::from([
        ("storage_binding_bytes", capabilities.max_binding_bytes),
        ("buffer_bytes", capabilities.max_buffer_bytes),
        ("workgroups_per_dimension", capabilities.max_workgroups_per_dimension.into()),
        ("workgroup_invocations", capabilities.max_workgroup_invocations.into()),
        ("workgroup_bytes", capabilities.max_workgroup_bytes.into()),
        ("storage_buffers", limits.max_storage_buffers_per_shader_stage.into()),
        ("storage_offset_alignment", limits.min_storage_buffer_offset_alignment.into()),
    ])
}

fn features(context: &Context) -> Vec<&'static str> {
    let has = context.device().features();
    [
        ("SUBGROUP", wgpu::Features::SUBGROUP),
        ("SHADER_F16", wgpu::Features::SHADER_F16),
        ("TIMESTAMP_QUERY", wgpu::Features::TIMESTAMP_QUERY),
        ("PIPELINE_CACHE", wgpu::Features::PIPELINE_CACHE),
        ("EXPERIMENTAL_COOPERATIVE_MATRIX", wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
    ]
    .into_iter()
    .filter(|&(_, feature)| has.contains(feature))
    .map(|(name, _)| name)
    .collect()
}

impl Device<'_> {
    fn fields(&self) -> serde_json::Map<String, Value> {
        let Self { context, choices, speeds, variants } = self;
        let capabilities = context.capabilities();
        let choice = |choice: &Choice| json!({ "case": choice.case, "kernel": choice.kernel.to_string(), "reason": choice.reason });
        let speed = |speed: &Speed| {
            json!({
                "case": speed.case.name,
                "kernel": speed.kernel.to_string(),
                "wall_seconds": speed.timings.median_wall().as_secs_f64(),
                "gpu_seconds": speed.timings.median_gpu().map(|time| time.as_secs_f64()),
                "gflops": speed.per_second(speed.case.flops),
                "gb_per_s": speed.per_second(speed.case.bytes),
            })
        };
        let variant = |variant: &Variant| {
            let found = variant.found.as_ref().ok();
            json!({
                "name": variant.kernel.to_string(),
                "supported": found.is_some(),
                "reason": variant.reason(choices),
                "chosen_for": variant.chosen_for(choices),
                "gflops": found.map(|found| found.gflops),
                "max_abs_error": found.map(|found| found.max_abs_error),
                "passed": found.map(|found| found.passed),
            })
        };
        let mut fields = serde_json::Map::new();
        let mut add = |key: &str, value: Value| fields.insert(key.to_owned(), value);
        add("features", json!(features(context)));
        add("subgroup_sizes", json!(capabilities.subgroup_sizes));
        add("limits", json!(limits(context)));
        add("cooperative_matrices", json!(capabilities.cooperative_matrices));
        add("trusted_shaders", json!(context.trusts_shaders()));
        add("max_dispatch_flops", json!(context.max_dispatch_flops()));
        add("choices", choices.iter().map(choice).collect());
        add("speeds", speeds.iter().map(speed).collect());
        add("variants", variants.iter().map(variant).collect());
        fields
    }

    fn print(&self, arguments: &Arguments) {
        let Self { context, choices, speeds, variants } = self;
        println!("features: {}", features(context).join(", "));
        for (name, limit) in limits(context) {
            println!("{name}: {limit}");
        }
        let checks = if context.trusts_shaders() { "without" } else { "with" };
        println!("shaders {checks} wgpu's checks");
        match context.max_dispatch_flops() {
            Some(flops) => println!("at most {flops:.1e} FLOPs a dispatch", flops = flops as f64),
            None => println!("dispatches of any length"),
        }
        println!("\n| for | kernel | why |\n| --- | --- | --- |");
        for choice in choices {
            println!("| {} | {} | {} |", choice.case, choice.kernel, choice.reason);
        }
        println!(
            "\nFrom submission to completion, medians of {}. FLOPs of visible pairs; bytes of q, k, v and the output, each once.\n",
            arguments.rounds
        );
        println!(
            "| call | kernel | ms | GPU ms | GFLOP/s | GB/s |\n| --- | --- | ---: | ---: | ---: | ---: |"
        );
        for speed in speeds {
            let milliseconds = |time: std::time::Duration| format!("{:.2}", time.as_secs_f64() * 1e3);
            println!(
                "| {} | {} | {} | {} | {:.1} | {:.1} |",
                speed.case.name,
                speed.kernel,
                milliseconds(speed.timings.median_wall()),
                speed.timings.median_gpu().map_or("–".to_owned(), milliseconds),
                speed.per_second(speed.case.flops),
                speed.per_second(speed.case.bytes),
            );
        }
        println!(
            "\nKernels against the f64 oracle on small problems, and at S1 (or, where queries are few, S4) in f32 (on matrix units in f16).\n"
        );
        println!("| kernel | runs | chosen for | GFLOP/s | max error |\n| --- | --- | --- | ---: | ---: |");
        for variant in variants {
            let chosen = variant.chosen_for(choices).join("; ");
            match &variant.found {
                Ok(found) => {
                    let verdict = if found.passed { "yes" } else { "WRONG" };
                    println!(
                        "| {} | {verdict} | {chosen} | {:.1} | {:.1e} |",
                        variant.kernel, found.gflops, found.max_abs_error
                    );
                }
                Err(error) => println!("| {} | no: {error} | {chosen} | | |", variant.kernel),
            }
        }
    }
}
