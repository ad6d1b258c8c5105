//! What a sampler on the GPU refuses or reports.

use super::{Run, SAMPLERS, bits, grid, plan_of};
use crate::common::{gpu, operands};
use prflash::attention::GpuSampler;
use prflash::sampling::{Bernoulli, Granularity, Renewal, Sampler};
use prflash::{Attention, Bias, BlockGrid, Call, Positions, Profile, Schedule, Seed, Shape, Systematic};

#[test]
fn what_does_not_fit_is_left_out_and_reported() {
    let Some(context) = gpu("what_does_not_fit_is_left_out_and_reported") else { return };
    let shape = Shape::new(2, 1, 512, 32).unwrap();
    let run = Run::new(&context, Attention::causal(), shape);
    let grid = BlockGrid::causal(&shape).with_block_size(4).unwrap();
    let seed = Seed::new(3);
    for sampler in SAMPLERS {
        let profile = Profile::harmonic().with_sink_blocks(2);
        let whole = Schedule::sample(&grid, &profile, sampler, seed).unwrap();
        let kept = whole.visited_blocks() as usize;
        for capacity in [0, 1, 2, 500, kept - 1, kept] {
            let mut device = GpuSampler::with_capacity(
                run.plan.context(),
                &grid,
                run.plan.maxima().batch(),
                &profile,
                sampler,
                capacity,
            )
            .unwrap();
            let output = run.output(&context);
            let bound = run.plan.bind(&operands(&run.qkv, &output)).unwrap();
            let mut encoder = context.device().create_command_encoder(&Default::default());
            let tables = device.encode(&mut encoder, &[(grid, seed)]).unwrap();
            run.plan.encode(&mut encoder, &bound, &Call::lengths(512, 512).with_tables(tables)).unwrap();
            context.queue().submit([encoder.finish()]);
            if capacity == kept {
                assert_eq!(device.check_blocking().unwrap(), [kept as u64]);
            } else {
                for error in [device.check_blocking().unwrap_err(), device.read_blocking().unwrap_err()] {
                    assert!(error.is_too_large() && error.argument() == Some("capacity"), "{error}");
                }
            }
            // The lists are those of the host as far as they go: attention doesn't read on.
            let mut left = capacity;
            let rows = (0..2 * grid.query_blocks()).map(|row| {
                let mut row: Vec<_> =
                    whole.row(row / grid.query_blocks(), row % grid.query_blocks()).collect();
                row.truncate(left);
                left -= row.len();
                row
            });
            let cut = Schedule::from_entries(&grid, &rows.collect::<Vec<_>>()).unwrap();
            assert_eq!(
                bits(&output.read_blocking(&context).unwrap()),
                run.want(&context, &[cut]),
                "{capacity}"
            );
        }
    }
}

#[test]
fn refusals_name_the_argument() {
    let Some(context) = gpu("refusals_name_the_argument") else { return };
    let maxima = grid(true, (4, 2), 256, 256);
    let plan = plan_of(&context, &maxima, 2);
    let harmonic = Profile::harmonic();
    let refused = |maxima: &BlockGrid, profile: &Profile, sampler: &dyn Sampler| {
        let error =
            GpuSampler::new(plan.context(), maxima, plan.maxima().batch(), profile, sampler).unwrap_err();
        assert!(error.is_invalid_argument());
        error.argument().unwrap()
    };
    assert_eq!(refused(&maxima, &harmonic, &Renewal), "sampler");
    assert_eq!(refused(&maxima, &Profile::budget(8.0).unwrap(), &Systematic), "profile");
    let none = GpuSampler::new(&context, &maxima, 0, &harmonic, &Systematic).unwrap_err();
    assert_eq!(none.argument(), Some("sequences"));
    // Lists for other attention than the plan's are drawn, and refused where they are to be read.
    let run = Run::new(&context, Attention::causal(), Shape::new(4, 2, 256, 4).unwrap());
    let output = run.output(&context);
    let bound = run.plan.bind(&operands(&run.qkv, &output)).unwrap();
    for other in [grid(false, (4, 2), 256, 256), grid(true, (4, 4), 256, 256)] {
        let mut sampler = GpuSampler::new(&context, &other, 1, &harmonic, &Systematic).unwrap();
        let mut encoder = context.device().create_command_encoder(&Default::default());
        let tables = sampler.encode(&mut encoder, &[(other, Seed::new(1))]).unwrap();
        let call = Call::lengths(256, 256).with_tables(tables);
        let error = run.plan.encode(&mut encoder, &bound, &call).unwrap_err();
        assert_eq!(error.argument(), Some("schedule"));
    }

    // Past any binding: a dense list of a million tokens in blocks of one.
    let huge = grid(true, (4, 2), 1 << 20, 1 << 20).with_block_size(1).unwrap();
    let error = GpuSampler::new(plan.context(), &huge, plan.maxima().batch(), &Profile::dense(), &Bernoulli)
        .unwrap_err();
    assert!(error.is_too_large() && error.argument() == Some("maxima"), "{error}");
    let capacity = GpuSampler::with_capacity(
        plan.context(),
        &maxima,
        plan.maxima().batch(),
        &harmonic,
        &Systematic,
        usize::MAX,
    )
    .unwrap_err();
    assert!(capacity.is_too_large() && capacity.argument() == Some("capacity"), "{capacity}");

    let mut sampler =
        GpuSampler::new(plan.context(), &maxima, plan.maxima().batch(), &harmonic, &Systematic).unwrap();
    assert!(sampler.tables().is_none() && sampler.read_blocking().unwrap().is_empty());
    let mut encoder = context.device().create_command_encoder(&Default::default());
    let mut refused = |grids: &[BlockGrid]| {
        let sequences: Vec<_> = grids.iter().map(|grid| (*grid, Seed::new(1))).collect();
        sampler.encode(&mut encoder, &sequences).unwrap_err().argument().unwrap()
    };
    assert_eq!(refused(&[]), "sequences");
    assert_eq!(refused(&[maxima; 3]), "sequences");
    for other in [
        grid(true, (4, 2), 257, 256),
        grid(true, (4, 2), 256, 257),
        grid(false, (4, 2), 256, 256),
        grid(true, (4, 4), 256, 256),
        maxima.with_block_size(32).unwrap(),
        maxima.with_granularity(Granularity::Shared),
    ] {
        assert_eq!(refused(&[maxima, other]), "grid", "{other:?}");
    }
    // After all these refusals the encoder and the sampler still work. Tables belong to no plan,
    // but to so many sequences.
    let tables = sampler.encode(&mut encoder, &[(maxima, Seed::new(1)); 2]).unwrap();
    let run = Run::new(&context, Attention::causal(), Shape::new(4, 2, 256, 4).unwrap());
    let output = run.output(&context);
    let bound = run.plan.bind(&operands(&run.qkv, &output)).unwrap();
    let call = Call::lengths(256, 256).with_tables(tables);
    assert_eq!(run.plan.encode(&mut encoder, &bound, &call).unwrap_err().argument(), Some("schedules"));
    context.queue().submit([encoder.finish()]);
    assert_eq!(sampler.read_blocking().unwrap().len(), 2);

    // Plans with positions and without read the same ones.
    let turned = Attention::causal().with_positions(Positions::from(Bias::alibi()));
    let turned = Run::new(&context, turned, Shape::new(4, 2, 256, 4).unwrap());
    let mut encoder = context.device().create_command_encoder(&Default::default());
    let tables = sampler.encode(&mut encoder, &[(maxima, Seed::new(1))]).unwrap();
    let call = Call::lengths(256, 256).with_tables(tables);
    let outputs = [run, turned].map(|run| {
        let output = run.output(&context);
        let bound = run.plan.bind(&operands(&run.qkv, &output)).unwrap();
        run.plan.encode(&mut encoder, &bound, &call).unwrap();
        (run, output)
    });
    context.queue().submit([encoder.finish()]);
    let drawn = sampler.read_blocking().unwrap();
    for (run, output) in outputs {
        let got: Vec<u32> = output.read_blocking(&context).unwrap().iter().map(|x| x.to_bits()).collect();
        assert_eq!(got, run.want(&context, &drawn));
    }
}
