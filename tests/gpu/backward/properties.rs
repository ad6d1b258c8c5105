//! What gradients must be, whatever the numbers.

use crate::common::gradients::{Backward, Got, bits};
use crate::common::{Problem, Storage, gpu, numbers};
use prflash::attention::{BackwardOperands, Sequence};
use prflash::sampling::Granularity;
use prflash::{
    Attention, Bias, BlockGrid, Call, Context, ContextOptions, DType, Layout, Operands, PlanOptions,
    Positions, Profile, Schedule, Seed, Shape, Systematic, TableBuffer, Tables, Tensor,
};

/// With a sink and a slope of each of four heads.
fn of_heads() -> Attention {
    let attention = Attention::causal().with_positions(Positions::from(Bias::alibi()));
    attention.with_sinks(&[0.5, -1.0, 2.0, 0.0]).unwrap()
}

fn problem(attention: Attention, len: usize) -> Backward {
    Backward::new(Problem::random(attention, Shape::new(4, 2, len, 64).unwrap(), 2), 3)
}

#[test]
fn equal_calls_give_equal_bits() {
    let Some(context) = gpu("gradients again") else { return };
    let backward = problem(of_heads(), 300);
    let run = || backward.run(&context, Storage::HeadsFirst, &Tables::new());
    let first = run();
    for _ in 0..3 {
        first.assert_same_bits(&run(), "again");
    }
}

/// Work that is cut into a dispatch a tile has the bits of work that isn't.
#[test]
fn long_work_has_the_same_bits() {
    if gpu("gradients in pieces").is_none() {
        return;
    }
    let open =
        |flops| Context::with_options_blocking(&ContextOptions::new().max_dispatch_flops(flops)).unwrap();
    let shape = Shape::new(4, 2, 300, 64).unwrap();
    let grid = BlockGrid::causal(&shape).with_block_size(32).unwrap();
    let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(5)).unwrap();
    for (attention, tables) in [
        (Attention::causal(), Tables::new()),
        (Attention::full().with_window(70).unwrap(), Tables::new()),
        (Attention::causal(), Tables::from(&schedule)),
        (of_heads(), Tables::from(&schedule)),
    ] {
        let backward = problem(attention, 300);
        let [whole, cut] =
            [u64::MAX, 1].map(|flops| backward.run(&open(flops), Storage::HeadsFirst, &tables));
        whole.assert_same_bits(&cut, "in pieces");
    }
}

/// All blocks by lists, in the blocks of a dense walk, are dense attention.
#[test]
fn a_schedule_of_all_blocks_is_dense() {
    let Some(context) = gpu("gradients of all blocks") else { return };
    for granularity in [Granularity::Head, Granularity::KvHead, Granularity::Shared] {
        let backward = problem(Attention::causal(), 500);
        let grid = BlockGrid::causal(&backward.problem.shape).with_granularity(granularity);
        let all = Schedule::dense(&grid).unwrap();
        let dense = backward.run(&context, Storage::HeadsFirst, &Tables::new());
        let listed = backward.run(&context, Storage::HeadsFirst, &Tables::from(&all));
        dense.assert_same_bits(&listed, "all blocks");
    }
}

/// What a loss of early rows has for late keys is nothing, and late rows change no early gradient.
#[test]
fn gradients_are_causal() {
    let Some(context) = gpu("causal gradients") else { return };
    let (len, first, dim) = (200, 90, 64);
    let mut backward = problem(Attention::causal(), len);
    backward.d_lse = None;
    for (at, x) in backward.d_output.iter_mut().enumerate() {
        if at / dim % len >= first {
            *x = 0.0;
        }
    }
    let got = backward.run(&context, Storage::HeadsFirst, &Tables::new());
    let late = |at: usize| at / dim % len >= first;
    for (name, values) in [("dq", &got.dq), ("dk", &got.dk), ("dv", &got.dv)] {
        let (zero, some): (Vec<_>, Vec<_>) = values.iter().enumerate().partition(|&(at, _)| late(at));
        assert!(zero.iter().all(|&(_, x)| *x == 0.0), "{name} of what no loss sees");
        assert!(some.iter().filter(|&&(_, x)| *x != 0.0).count() > some.len() / 2, "{name}");
    }
    // What late rows hold doesn't matter either, be it no number.
    let Problem { q, .. } = &mut backward.problem;
    q.iter_mut().enumerate().filter(|&(at, _)| late(at)).for_each(|(_, x)| *x *= -3.0);
    let again = backward.run(&context, Storage::HeadsFirst, &Tables::new());
    assert_eq!(bits(&got.dv[..first * dim]), bits(&again.dv[..first * dim]));
}

/// Gradients are linear in those of the output: exactly so by a power of two.
#[test]
fn gradients_are_linear() {
    let Some(context) = gpu("linear gradients") else { return };
    let mut backward = problem(of_heads().with_soft_cap(2.0).unwrap(), 130);
    let once = backward.run(&context, Storage::HeadsFirst, &Tables::new());
    let double = |values: &mut Vec<f32>| values.iter_mut().for_each(|x| *x *= 4.0);
    double(&mut backward.d_output);
    backward.d_lse.as_mut().map(double).unwrap();
    let got = backward.run(&context, Storage::HeadsFirst, &Tables::new());
    let mut four = once;
    four.each_mut().into_iter().for_each(double);
    assert!(four.sinks.iter().chain(&four.slopes).all(|x| *x != 0.0));
    four.assert_same_bits(&got, "four times");
}

/// Heads in another order have gradients in that order.
#[test]
fn heads_keep_to_themselves() {
    let Some(context) = gpu("gradients of heads") else { return };
    let (heads, len, dim) = (3, 100, 64);
    let problem = Problem::random(Attention::causal(), Shape::new(heads, heads, len, dim).unwrap(), 2);
    let mut backward = Backward::new(problem, 1);
    let got = backward.run(&context, Storage::HeadsFirst, &Tables::new());
    let turned = |values: &mut Vec<f32>| {
        let each = values.len() / heads;
        values.rotate_left(each);
    };
    let Problem { q, k, v, .. } = &mut backward.problem;
    [q, k, v, &mut backward.d_output].into_iter().for_each(turned);
    let again = backward.run(&context, Storage::HeadsFirst, &Tables::new());
    let mut other = got;
    [&mut other.dq, &mut other.dk, &mut other.dv].into_iter().for_each(turned);
    other.assert_same_bits(&again, "in another order");
}

/// Sequences packed behind each other have the gradients of each alone; other rows keep theirs.
#[test]
fn packed_sequences_are_those_alone() {
    let Some(context) = gpu("gradients of packed sequences") else { return };
    let (heads, kv_heads, dim, lens) = (4, 2, 64, [70, 20, 133]);
    let total: usize = lens.iter().sum();
    let capacity = total + 10;
    let maxima = Shape::new(heads, kv_heads, 133, dim).unwrap();
    let attention = Attention::causal().with_lse(true);
    let options = PlanOptions::new().with_sequences(3).unwrap();
    let plan = attention.plan_with(&context, &maxima, &options).unwrap();
    let backward = attention.plan_backward_with(&context, &maxima, &options).unwrap();
    let tensor = |heads, values: &[f32]| {
        let layout = Layout::heads_first(1, heads, capacity, dim).unwrap();
        Tensor::upload(&context, DType::F32, layout, values).unwrap()
    };
    let numbers = |seed, heads: usize| numbers(seed, heads * capacity * dim);
    let values = [(1, heads), (2, kv_heads), (3, kv_heads), (4, heads)].map(|(s, h)| (h, numbers(s, h)));
    let [q, k, v, d_output] = values.each_ref().map(|(heads, values)| tensor(*heads, values));
    let filled = |heads: usize| tensor(heads, &vec![7.0; heads * capacity * dim]);
    let (output, dq, dk, dv) = (filled(heads), filled(heads), filled(kv_heads), filled(kv_heads));
    let lse = Tensor::zeros(&context, DType::F32, Layout::rows(1, heads, capacity).unwrap()).unwrap();
    let mut start = 0;
    let sequences = lens.map(|len| {
        start += len;
        let rows = start - len..start;
        Sequence { queries: rows.clone(), keys: rows, ..Sequence::default() }
    });
    let call = Call::sequences(&sequences);
    let operands =
        Operands { q: q.view(), k: k.view(), v: v.view(), output: output.view(), lse: Some(lse.view()) };
    plan.submit(&plan.bind(&operands).unwrap(), &call).unwrap();
    let bound = backward
        .bind(&BackwardOperands {
            q: q.view(),
            k: k.view(),
            v: v.view(),
            output: output.view(),
            lse: lse.view(),
            d_output: d_output.view(),
            d_lse: None,
            dq: dq.view(),
            dk: dk.view(),
            dv: dv.view(),
            d_sinks: None,
            d_slopes: None,
        })
        .unwrap();
    let mut encoder = context.device().create_command_encoder(&Default::default());
    backward.encode(&mut encoder, &bound, &call).unwrap();
    context.queue().submit([encoder.finish()]);
    let [dq, dk, dv] = [dq, dk, dv].map(|tensor| tensor.read_blocking(&context).unwrap());
    let cut = |values: &[f32], rows: std::ops::Range<usize>| {
        let heads = values.chunks_exact(capacity * dim);
        heads.flat_map(|head| head[rows.start * dim..rows.end * dim].to_vec()).collect::<Vec<f32>>()
    };
    for Sequence { queries: rows, .. } in sequences {
        let shape = Shape::new(heads, kv_heads, rows.len(), dim).unwrap();
        let [q, k, v, d_output] = values.each_ref().map(|(_, values)| cut(values, rows.clone()));
        let problem = Problem { attention: attention.clone(), options: PlanOptions::new(), shape, q, k, v };
        let alone = Backward { problem, d_output, d_lse: None };
        let alone = alone.run(&context, Storage::HeadsFirst, &Tables::new());
        let [dq, dk, dv] = [&dq, &dk, &dv].map(|values| cut(values, rows.clone()));
        Got { dq, dk, dv, ..Got::default() }.assert_same_bits(&alone, "packed");
    }
    for values in [&dq, &dk, &dv] {
        assert!(cut(values, total..capacity).iter().all(|&x| x == 7.0), "rows of no sequence");
    }
}

/// Rows that see nothing have no gradient, whatever they hold; those that see a NaN have NaN.
#[test]
fn rows_without_a_result() {
    let Some(context) = gpu("gradients without a result") else { return };
    let (dim, q_len, kv_len) = (64, 50, 20);
    let shape = Shape::new(1, 1, q_len, dim).unwrap().with_kv_len(kv_len).unwrap();
    let mut backward = Backward::new(Problem::random(Attention::causal(), shape, 4), 1);
    let nothing = q_len - kv_len;
    backward.problem.q[..nothing * dim].fill(f32::NAN);
    let got = backward.run(&context, Storage::HeadsFirst, &Tables::new());
    assert!(got.dq[..nothing * dim].iter().all(|&x| x == 0.0), "rows that see nothing");
    let all = got.dq.iter().chain(&got.dk).chain(&got.dv);
    assert!(all.clone().all(|x| x.is_finite()) && all.filter(|&&x| x != 0.0).count() > 1000);
    // Key 15 is seen by the last five queries alone.
    backward.problem.k[15 * dim + 3] = f32::NAN;
    let spoilt = backward.run(&context, Storage::HeadsFirst, &Tables::new());
    let sees = (q_len - 5) * dim;
    assert_eq!(bits(&spoilt.dq[..sees]), bits(&got.dq[..sees]), "rows that don't see it");
    assert!(spoilt.dq[sees..].iter().all(|x| x.is_nan()), "rows that see it");
    assert!(spoilt.dv.iter().all(|x| x.is_nan()), "values that these rows see");
}

/// Tables of schedules by key blocks, written again.
#[test]
fn tables_are_written_again() {
    let Some(context) = gpu("tables of gradients") else { return };
    let backward = problem(Attention::causal(), 200);
    let grid = BlockGrid::causal(&backward.problem.shape).with_block_size(16).unwrap();
    let sample = |seed| Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(seed)).unwrap();
    let schedules = [sample(1), sample(2)];
    let mut tables = TableBuffer::for_backward(&context, &Tables::from(&schedules[0])).unwrap();
    tables.write(&Tables::from(&schedules[1])).unwrap();
    let Problem { attention, shape, .. } = &backward.problem;
    let plan = attention.plan_backward(&context, shape).unwrap();
    let [q, k, v] = backward.problem.upload(&context, Storage::HeadsFirst).unwrap();
    let forward = attention.plan(&context, shape).unwrap().run(&q, &k, &v, &Tables::from(&schedules[1]));
    let forward = forward.unwrap();
    let zeros = |heads| Tensor::zeros(&context, DType::F32, Layout::heads_first(1, heads, 200, 64).unwrap());
    let (dq, dk, dv) = (zeros(4).unwrap(), zeros(2).unwrap(), zeros(2).unwrap());
    let layout = Layout::heads_first(1, 4, 200, 64).unwrap();
    let d_output = Tensor::upload(&context, DType::F32, layout, &backward.d_output).unwrap();
    let rows = Layout::rows(1, 4, 200).unwrap();
    let d_lse = Tensor::upload(&context, DType::F32, rows, backward.d_lse.as_ref().unwrap()).unwrap();
    let operands = BackwardOperands {
        q: &q,
        k: &k,
        v: &v,
        output: forward.output.view(),
        lse: forward.lse.as_ref().unwrap().view(),
        d_output: d_output.view(),
        d_lse: Some(d_lse.view()),
        dq: dq.view(),
        dk: dk.view(),
        dv: dv.view(),
        d_sinks: None,
        d_slopes: None,
    };
    let bound = plan.bind(&operands).unwrap();
    plan.submit(&bound, &Call::lengths(200, 200).with_tables(&tables)).unwrap();
    let [dq, dk, dv] = [dq, dk, dv].map(|tensor| tensor.read_blocking(&context).unwrap());
    let want = backward.run(&context, Storage::HeadsFirst, &Tables::from(&schedules[1]));
    Got { dq, dk, dv, ..Got::default() }.assert_same_bits(&want, "written again");
}
