//! Schedules drawn on the GPU: bit for bit those of the host, and read by attention in the same
//! submit.

mod refusals;

use crate::common::{Problem, Storage, gpu, operands, zeros};
use prflash::attention::{GpuSampler, Sequence};
use prflash::rounds::Combine;
use prflash::sampling::{Bernoulli, Granularity, Sampler};
use prflash::{
    Attention, BlockGrid, Call, Context, DType, Layout, Plan, Profile, Schedule, Seed, Shape, Systematic,
    Tables, Tensor,
};

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

fn plan_of(context: &Context, grid: &BlockGrid, batch: usize) -> Plan {
    let attention = if grid.is_causal() { Attention::causal() } else { Attention::full() };
    let shape = Shape::new(grid.heads(), grid.kv_heads(), grid.q_len(), 4).unwrap();
    let shape = shape.with_kv_len(grid.kv_len()).unwrap().with_batch(batch).unwrap();
    attention.plan(context, &shape).unwrap()
}

fn draw(context: &Context, sampler: &mut GpuSampler, sequences: &[(BlockGrid, Seed)]) -> Vec<Schedule> {
    let mut encoder = context.device().create_command_encoder(&Default::default());
    sampler.encode(&mut encoder, sequences).unwrap();
    context.queue().submit([encoder.finish()]);
    sampler.read_blocking().unwrap()
}

fn grid(causal: bool, heads: (usize, usize), q_len: usize, kv_len: usize) -> BlockGrid {
    let shape = Shape::new(heads.0, heads.1, q_len, 4).unwrap().with_kv_len(kv_len).unwrap();
    if causal { BlockGrid::causal(&shape) } else { BlockGrid::full(&shape) }
}

fn profiles() -> Vec<Profile> {
    vec![
        Profile::harmonic(),
        Profile::harmonic().with_sink_blocks(0),
        Profile::harmonic().with_sink_blocks(3).with_window_blocks(4).unwrap(),
        Profile::harmonic().with_sink_blocks(1 << 40),
        Profile::harmonic().with_floor(0.07).unwrap(),
        Profile::harmonic().with_window_blocks(1000).unwrap(),
        Profile::harmonic_with(4.0, 1.5).unwrap(),
        Profile::harmonic_with(0.3, 0.25).unwrap().with_sink_blocks(2),
        Profile::harmonic_with(1.0, 0.0).unwrap(),
        Profile::deduction(0.3).unwrap(),
        Profile::deduction(0.7).unwrap().with_floor(0.01).unwrap().with_sink_blocks(0),
        Profile::dense(),
    ]
}

const SAMPLERS: [&dyn Sampler; 2] = [&Systematic, &Bernoulli];

#[test]
fn every_grid_profile_and_sampler_draws_the_bits_of_the_host() {
    let Some(context) = gpu("every_grid_profile_and_sampler_draws_the_bits_of_the_host") else { return };
    // (q_len, kv_len) in blocks of 16: square, ragged, a chunk, decode, queries before the first
    // key (negative blocks), no keys at all, one block, no queries.
    let lengths = [
        (640, 640),
        (645, 645),
        (70, 630),
        (1, 641),
        (640, 100),
        (333, 5),
        (40, 0),
        (16, 16),
        (1, 1),
        (0, 90),
    ];
    for causal in [true, false] {
        let maxima = grid(causal, (4, 2), 645, 645).with_block_size(16).unwrap();
        for granularity in [Granularity::Head, Granularity::KvHead, Granularity::Shared] {
            let maxima = maxima.with_granularity(granularity);
            let plan = plan_of(&context, &maxima, lengths.len());
            for (profile_index, profile) in profiles().iter().enumerate() {
                for sampler in SAMPLERS {
                    let mut device =
                        GpuSampler::new(plan.context(), &maxima, plan.maxima().batch(), profile, sampler)
                            .unwrap();
                    // One sequence each, of different lengths and keys, all in one dispatch.
                    let sequences: Vec<(BlockGrid, Seed)> = (0..)
                        .zip(lengths)
                        .map(|(index, (q_len, kv_len))| {
                            let grid = grid(causal, (4, 2), q_len, kv_len).with_block_size(16).unwrap();
                            let seed = Seed::new(u64::from(index) << 31 | profile_index as u64);
                            (
                                grid.with_granularity(granularity),
                                seed.sequence(index).layer(index / 2).round(index % 3),
                            )
                        })
                        .collect();
                    let got = draw(&context, &mut device, &sequences);
                    for ((grid, seed), got) in sequences.iter().zip(&got) {
                        let want = Schedule::sample(grid, profile, sampler, *seed).unwrap();
                        assert_eq!(*got, want, "{grid:?}, {profile}, {}, {seed:?}", sampler.name());
                        assert!(want.visited_blocks() <= device.capacity());
                    }
                }
            }
        }
    }
}

/// Within the maxima, the longest grid isn't the one of the most rows: no smaller grid keeps more
/// than there is room for.
#[test]
fn the_capacity_is_enough_for_every_grid_within_the_maxima() {
    let Some(context) = gpu("the_capacity_is_enough_for_every_grid_within_the_maxima") else { return };
    for causal in [true, false] {
        let sized = |q_len, kv_len| grid(causal, (1, 1), q_len, kv_len).with_block_size(4).unwrap();
        for (q_max, kv_max) in [(24, 24), (4, 30), (30, 9), (1, 17)] {
            let maxima = sized(q_max, kv_max);
            let plan = plan_of(&context, &maxima, 1);
            for (profile, sampler) in [(Profile::dense(), SAMPLERS[1]), (Profile::harmonic(), SAMPLERS[0])] {
                let capacity =
                    GpuSampler::new(plan.context(), &maxima, plan.maxima().batch(), &profile, sampler)
                        .unwrap()
                        .capacity();
                for (q_len, kv_len) in (0..=q_max).flat_map(|q| (0..=kv_max).map(move |kv| (q, kv))) {
                    for seed in 0..4 {
                        let schedule =
                            Schedule::sample(&sized(q_len, kv_len), &profile, sampler, Seed::new(seed));
                        let kept = schedule.unwrap().visited_blocks();
                        assert!(kept <= capacity, "{q_len} × {kv_len}, {sampler:?}: {kept} of {capacity}");
                    }
                }
            }
        }
    }
}

/// The rows that `tests/sampling.rs` freezes for the host.
#[test]
fn frozen_seeds_are_the_same_on_the_gpu() {
    let Some(context) = gpu("frozen_seeds_are_the_same_on_the_gpu") else { return };
    let grid = grid(true, (2, 1), 1024, 1024);
    let plan = plan_of(&context, &grid, 1);
    let mut sampler =
        GpuSampler::new(plan.context(), &grid, plan.maxima().batch(), &Profile::harmonic(), &Systematic)
            .unwrap();
    let schedule = draw(&context, &mut sampler, &[(grid, Seed::new(2024))]).remove(0);
    let rows = |group| [3, 9, 15].map(|row| schedule.blocks(group, row));
    assert_eq!(rows(0), [vec![0, 1, 3], vec![0, 5, 8, 9], vec![0, 8, 13, 15]]);
    assert_eq!(rows(1), [vec![0, 3], vec![0, 4, 8, 9], vec![0, 9, 13, 15]]);
}

#[test]
fn a_million_tokens() {
    let Some(context) = gpu("a_million_tokens") else { return };
    let grid = grid(true, (3, 1), 64 * 16_384, 64 * 16_384);
    let plan = plan_of(&context, &grid, 1);
    let profile = Profile::harmonic();
    let mut sampler =
        GpuSampler::new(plan.context(), &grid, plan.maxima().batch(), &profile, &Systematic).unwrap();
    for seed in [Seed::new(1), Seed::new(u64::MAX).layer(31).round(7)] {
        let got = draw(&context, &mut sampler, &[(grid, seed)]).remove(0);
        assert!(got == Schedule::sample(&grid, &profile, &Systematic, seed).unwrap(), "{seed:?}");
    }
    // The memory is that of the kept blocks, not of the triangle.
    let dense = 8 * grid.dense_blocks();
    assert!(sampler.device_bytes() < dense / 200, "{} of {dense} bytes", sampler.device_bytes());
}

/// A problem, its tensors, and its output with the tables of a sampler.
struct Run {
    problem: Problem,
    plan: Plan,
    qkv: [prflash::TensorView; 3],
}

impl Run {
    fn new(context: &Context, attention: Attention, shape: Shape) -> Self {
        let problem = Problem::random(attention, shape, 5);
        let plan = problem.attention.plan(context, &shape).unwrap();
        let qkv = problem.upload(context, Storage::HeadsFirst).unwrap();
        Self { problem, plan, qkv }
    }

    fn output(&self, context: &Context) -> Tensor {
        let shape = &self.problem.shape;
        let layout =
            Layout::heads_first(shape.batch(), shape.heads(), shape.q_len(), shape.value_dim()).unwrap();
        zeros(context, DType::F32, layout)
    }

    fn want(&self, context: &Context, schedules: &[Schedule]) -> Vec<u32> {
        let tables = schedules.iter().try_fold(Tables::new(), Tables::with_schedule).unwrap();
        bits(&self.problem.run_on(context, self.plan.options(), &self.qkv, &tables).output)
    }
}

#[test]
fn attention_reads_what_was_drawn_in_the_same_submit() {
    let Some(context) = gpu("attention_reads_what_was_drawn_in_the_same_submit") else { return };
    let gqa = Shape::new(4, 2, 300, 32).unwrap();
    for (attention, shape) in [
        (Attention::causal(), gqa),
        (Attention::full(), gqa.with_kv_len(200).unwrap()),
        (Attention::causal(), gqa.with_q_len(1).unwrap().with_kv_len(515).unwrap()),
    ] {
        let run = Run::new(&context, attention.with_correction(1.0).unwrap(), shape);
        let grid = if run.plan.attention().is_causal() {
            BlockGrid::causal(&shape)
        } else {
            BlockGrid::full(&shape)
        };
        let grid = grid.with_block_size(16).unwrap();
        for sampler in SAMPLERS {
            let mut device = GpuSampler::new(
                run.plan.context(),
                &grid,
                run.plan.maxima().batch(),
                &Profile::harmonic(),
                sampler,
            )
            .unwrap();
            let keys = [1, 2, 3].map(|seed| Seed::new(seed).layer(4));
            let outputs = keys.map(|_| run.output(&context));
            // Three layers in one submit: none of them overwrites the lists of another.
            let mut encoder = context.device().create_command_encoder(&Default::default());
            for (seed, output) in keys.iter().zip(&outputs) {
                let tables = device.encode(&mut encoder, &[(grid, *seed)]).unwrap();
                let bound = run.plan.bind(&operands(&run.qkv, output)).unwrap();
                let call = Call::lengths(shape.q_len(), shape.kv_len()).with_tables(tables);
                run.plan.encode(&mut encoder, &bound, &call).unwrap();
            }
            context.queue().submit([encoder.finish()]);
            for (seed, output) in keys.iter().zip(&outputs) {
                let schedule = Schedule::sample(&grid, &Profile::harmonic(), sampler, *seed).unwrap();
                let got = bits(&output.read_blocking(&context).unwrap());
                assert_eq!(got, run.want(&context, &[schedule]), "{shape:?}, {}", sampler.name());
            }
        }
    }
}

#[test]
fn each_sequence_of_a_batch_has_its_own_schedule() {
    let Some(context) = gpu("each_sequence_of_a_batch_has_its_own_schedule") else { return };
    let shape = Shape::new(2, 1, 200, 32).unwrap().with_batch(3).unwrap();
    let run = Run::new(&context, Attention::causal(), shape);
    let grid = BlockGrid::causal(&shape).with_block_size(16).unwrap();
    let sequences = [0, 1, 2].map(|sequence| (grid, Seed::new(9).sequence(sequence)));
    let mut sampler = GpuSampler::new(
        run.plan.context(),
        &grid,
        run.plan.maxima().batch(),
        &Profile::harmonic(),
        &Systematic,
    )
    .unwrap();
    let output = run.output(&context);
    let bound = run.plan.bind(&operands(&run.qkv, &output)).unwrap();
    let mut encoder = context.device().create_command_encoder(&Default::default());
    let tables = sampler.encode(&mut encoder, &sequences).unwrap();
    run.plan.encode(&mut encoder, &bound, &Call::lengths(200, 200).with_tables(tables)).unwrap();
    context.queue().submit([encoder.finish()]);
    let schedules = sequences
        .map(|(grid, seed)| Schedule::sample(&grid, &Profile::harmonic(), &Systematic, seed).unwrap());
    assert_eq!(bits(&output.read_blocking(&context).unwrap()), run.want(&context, &schedules));
    // One schedule for all, in the same buffers.
    let mut encoder = context.device().create_command_encoder(&Default::default());
    let tables = sampler.encode(&mut encoder, &sequences[1..2]).unwrap();
    run.plan.encode(&mut encoder, &bound, &Call::lengths(200, 200).with_tables(tables)).unwrap();
    context.queue().submit([encoder.finish()]);
    assert_eq!(bits(&output.read_blocking(&context).unwrap()), run.want(&context, &schedules[1..2]));
    // Sequences of other lengths than the schedule's are refused, as with tables of the host.
    let mut encoder = context.device().create_command_encoder(&Default::default());
    let call = [Sequence { entry: 0, queries: 0..100, keys: 0..100, positions: None }];
    let call = Call::sequences(&call).with_tables(sampler.tables().unwrap());
    assert_eq!(run.plan.encode(&mut encoder, &bound, &call).unwrap_err().argument(), Some("schedule"));
}

/// A drawing that is recorded and not yet submitted keeps its buffer, though no call reads it.
#[test]
fn drawings_run_in_any_order() {
    let Some(context) = gpu("drawings_run_in_any_order") else { return };
    let grid = grid(true, (2, 1), 1024, 1024);
    let mut sampler = GpuSampler::new(
        plan_of(&context, &grid, 1).context(),
        &grid,
        plan_of(&context, &grid, 1).maxima().batch(),
        &Profile::harmonic(),
        &Systematic,
    )
    .unwrap();
    let mut encoders = [1, 2].map(|seed| {
        let mut encoder = context.device().create_command_encoder(&Default::default());
        sampler.encode(&mut encoder, &[(grid, Seed::new(seed))]).unwrap();
        encoder
    });
    encoders.reverse();
    for encoder in encoders {
        context.queue().submit([encoder.finish()]);
    }
    let want = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(2)).unwrap();
    assert_eq!(sampler.read_blocking().unwrap(), [want]);
}

#[test]
fn nothing_is_allocated_after_warm_up() {
    if gpu("nothing_is_allocated_after_warm_up").is_none() {
        return;
    }
    // A device of its own: the counters count everything on a device, other tests' buffers too.
    let context = Context::new_blocking().unwrap();
    let shape = Shape::new(2, 1, 256, 64).unwrap();
    let run = Run::new(&context, Attention::causal(), shape);
    let maxima = BlockGrid::causal(&shape).with_block_size(16).unwrap();
    let mut sampler = GpuSampler::new(
        run.plan.context(),
        &maxima,
        run.plan.maxima().batch(),
        &Profile::harmonic(),
        &Systematic,
    )
    .unwrap();
    let output = run.output(&context);
    let bound = run.plan.bind(&operands(&run.qkv, &output)).unwrap();
    let mut step = |len: usize| {
        let mut encoder = context.device().create_command_encoder(&Default::default());
        for layer in 0..2 {
            let grid = grid(true, (2, 1), len, len).with_block_size(16).unwrap();
            let tables = sampler.encode(&mut encoder, &[(grid, Seed::new(1).layer(layer))]).unwrap();
            run.plan.encode(&mut encoder, &bound, &Call::lengths(len, len).with_tables(tables)).unwrap();
        }
        context.queue().submit([encoder.finish()]);
        context.wait().unwrap();
        let hal = context.device().get_internal_counters().hal;
        let counts = [&hal.buffers, &hal.bind_groups, &hal.compute_pipelines, &hal.memory_allocations];
        (counts.map(|counter| counter.read()), sampler.device_bytes())
    };
    let warm = step(256);
    assert!(warm.0[0] > 0, "the counters count");
    for len in 1..100 {
        assert_eq!(step(len), warm, "length {len}");
    }
}

/// Anytime attention without a list on the host: every round draws its own, in the same submit.
#[test]
fn rounds_take_schedules_that_the_gpu_draws() {
    let Some(context) = gpu("rounds_take_schedules_that_the_gpu_draws") else { return };
    let shape = Shape::new(4, 2, 300, 32).unwrap();
    let grid = BlockGrid::causal(&shape).with_block_size(16).unwrap();
    let profile = Profile::harmonic();
    let seed = |round: usize| Seed::new(6).round(round as u32);
    let problem = Problem::random(Attention::causal().with_correction(1.0).unwrap(), shape, 3);
    let qkv = problem.upload(&context, Storage::HeadsFirst).unwrap();
    let plan = problem.attention.plan(&context, &shape).unwrap().rounds(Combine::Independent).unwrap();
    let mut rounds = plan.start(&qkv[0], &qkv[1], &qkv[2]).unwrap();
    for round in 0..3 {
        let schedule = Schedule::sample(&grid, &profile, &Systematic, seed(round)).unwrap();
        rounds.step(&Tables::from(&schedule)).unwrap();
    }
    let want = rounds.estimate().output.read_blocking(&context).unwrap();

    let output = zeros(&context, DType::F32, Layout::heads_first(1, 4, 300, 32).unwrap());
    let bound = plan.bind(&operands(&qkv, &output), None).unwrap();
    let mut sampler = GpuSampler::new(
        plan.round_plan().context(),
        &grid,
        plan.round_plan().maxima().batch(),
        &profile,
        &Systematic,
    )
    .unwrap();
    let mut encoder = context.device().create_command_encoder(&Default::default());
    for round in 0..3 {
        let tables = sampler.encode(&mut encoder, &[(grid, seed(round))]).unwrap();
        let call = Call::lengths(300, 300).with_tables(tables);
        plan.encode_round(&mut encoder, &bound, &call, round).unwrap();
    }
    context.queue().submit([encoder.finish()]);
    assert_eq!(output.read_blocking(&context).unwrap(), want);
}
