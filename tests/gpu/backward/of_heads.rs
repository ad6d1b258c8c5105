//! Gradients of what heads have of their own: sinks, and slopes of a bias.

use crate::common::cases::combinations;
use crate::common::gradients::Backward;
use crate::common::{Problem, Storage, gpu, small_device, zeros};
use prflash::attention::{BackwardOperands, Mask, Sequence};
use prflash::{Attention, Bias, Call, DType, Layout, PlanOptions, Positions, Shape, Tables, Tensor};

fn sinks(heads: usize) -> Vec<f32> {
    (0..heads).map(|head| head as f32 - 4.0).collect()
}

fn biased(attention: Attention) -> Attention {
    attention.with_positions(Positions::from(Bias::harmonic()))
}

/// Shards of other heads have theirs, and shards of other entries add to those of the first.
#[test]
fn shards_add_up() {
    if gpu("gradients of heads in shards").is_none() {
        return;
    }
    let context = small_device(1 << 16, 300);
    let shape = Shape::new(6, 3, 70, 32).unwrap().with_batch(4).unwrap();
    let attention = biased(Attention::causal().with_sinks(&sinks(6)).unwrap());
    let backward = Backward::new(Problem::random(attention, shape, 3), 3);
    backward.check(&context, Storage::HeadsFirst, &Tables::new(), "shards");
    let mask = crate::common::cases::mask(0, [6, 70, 70]);
    let attention = Attention::causal().with_masks(true).with_sinks(&sinks(6)).unwrap();
    let backward = Backward::new(Problem::random(attention, shape, 3), 1);
    backward.check(&context, Storage::HeadsFirst, &Tables::from(&mask), "masks in shards");
}

/// Rows that see themselves alone are at no distance from what they see.
#[test]
fn slopes_of_no_distance_have_no_gradient() {
    let Some(context) = gpu("gradients of slopes at no distance") else { return };
    let shape = Shape::new(4, 2, 100, 32).unwrap();
    for (name, positions) in combinations(32) {
        if positions.bias().is_none() {
            continue;
        }
        let attention = Attention::causal().with_positions(positions).with_window(1).unwrap();
        let attention = attention.with_sinks(&sinks(4)).unwrap();
        let backward = Backward::new(Problem::random(attention, shape, 3), 3);
        let got = backward.run(&context, Storage::HeadsFirst, &Tables::new());
        assert!(got.slopes.iter().all(|&x| x == 0.0), "{name}: {:?}", got.slopes);
        assert!(got.sinks.iter().all(|&x| x != 0.0), "{name}: {:?}", got.sinks);
    }
}

/// Rows that see nothing are all sink: its gradient is that of their log-sum-exp, and what a mask
/// hides from all has no part in a slope's.
#[test]
fn rows_without_keys_are_all_sink() {
    let Some(context) = gpu("gradients of sinks alone") else { return };
    let shape = Shape::new(4, 2, 50, 32).unwrap();
    let attention = biased(Attention::causal().with_sinks(&sinks(4)).unwrap()).with_masks(true);
    let backward = Backward::new(Problem::random(attention, shape, 3), 3);
    let mask = Mask::boolean([1, 1, 50], &[false; 50]).unwrap();
    let got = backward.run(&context, Storage::HeadsFirst, &Tables::from(&mask));
    assert!(got.slopes.iter().chain(&got.dq).chain(&got.dv).all(|&x| x == 0.0), "{got:?}");
    for (head, got) in got.sinks.iter().enumerate() {
        let d_lse = &backward.d_lse.as_ref().unwrap()[head * 50..][..50];
        let want: f64 = d_lse.iter().map(|&x| f64::from(x)).sum();
        assert!((f64::from(*got) - want).abs() < 1e-5, "{head}: {got} for {want}");
    }
}

/// More rows than lanes add up in one run.
#[test]
fn many_rows_add_up() {
    let Some(context) = gpu("gradients of heads over many rows") else { return };
    let shape = Shape::new(2, 1, 4500, 8).unwrap().with_kv_len(20).unwrap();
    let attention = biased(Attention::full().with_sinks(&[0.5, 1.0]).unwrap());
    let backward = Backward::new(Problem::random(attention, shape, 3), 3);
    backward.check(&context, Storage::HeadsFirst, &Tables::new(), "many rows");
}

/// A call may ask for one of the two, or for sequences of which there are none; what is asked for
/// is written, whatever was there.
#[test]
fn calls_ask_for_what_they_want() {
    let Some(context) = gpu("gradients of some heads") else { return };
    let shape = Shape::new(4, 2, 60, 32).unwrap();
    let attention = biased(Attention::causal().with_sinks(&sinks(4)).unwrap());
    let backward = Backward::new(Problem::random(attention, shape, 4), 1);
    let Problem { attention, .. } = &backward.problem;
    let both = backward.run(&context, Storage::HeadsFirst, &Tables::new());
    let [q, k, v] = backward.problem.upload(&context, Storage::HeadsFirst).unwrap();
    let forward = attention.plan(&context, &shape).unwrap().run(&q, &k, &v, &Tables::new()).unwrap();
    let options = PlanOptions::new().with_sequences(2).unwrap();
    let plan = attention.plan_backward_with(&context, &shape, &options).unwrap();
    let tensor = |heads| zeros(&context, DType::F32, Layout::heads_first(1, heads, 60, 32).unwrap());
    let layout = Layout::heads_first(1, 4, 60, 32).unwrap();
    let d_output = Tensor::upload(&context, DType::F32, layout, &backward.d_output).unwrap();
    let (dq, dk, dv) = (tensor(4), tensor(2), tensor(2));
    let of_heads = || {
        let layout = Layout::rows(1, 4, 1).unwrap();
        Tensor::upload(&context, DType::F32, layout, &[7.0; 4]).unwrap()
    };
    let (sinks, slopes) = (of_heads(), of_heads());
    let read = |tensor: &Tensor| tensor.read_blocking(&context).unwrap();
    for (d_sinks, d_slopes) in
        [(Some(sinks.view()), None), (None, Some(slopes.view())), (Some(sinks.view()), Some(slopes.view()))]
    {
        let operands = BackwardOperands {
            q: &q,
            k: &k,
            v: &v,
            output: forward.output.view(),
            lse: forward.lse.as_ref().unwrap().view(),
            d_output: d_output.view(),
            d_lse: None,
            dq: dq.view(),
            dk: dk.view(),
            dv: dv.view(),
            d_sinks,
            d_slopes,
        };
        let bound = plan.bind(&operands).unwrap();
        plan.submit(&bound, &Call::lengths(60, 60)).unwrap();
        let want = [(d_sinks, &sinks, &both.sinks), (d_slopes, &slopes, &both.slopes)];
        for (asked, tensor, want) in want {
            if asked.is_some() {
                assert_eq!(read(tensor), *want);
            }
        }
        plan.submit(&bound, &Call::sequences(&[])).unwrap();
        for (asked, tensor, _) in want {
            assert!(asked.is_none() || read(tensor) == [0.0; 4], "sums of nothing");
        }
        // Two sequences have both one's sums.
        let half = |rows: std::ops::Range<usize>| Sequence {
            queries: rows.clone(),
            keys: rows,
            ..Sequence::default()
        };
        let halves = [half(0..25), half(25..60)];
        let sums = |sequences: &[Sequence]| {
            plan.submit(&bound, &Call::sequences(sequences)).unwrap();
            [read(&sinks), read(&slopes)]
        };
        let [one, other, all] = [&halves[..1], &halves[1..], &halves[..]].map(sums);
        for (index, asked) in [d_sinks, d_slopes].into_iter().enumerate().filter(|(_, asked)| asked.is_some())
        {
            for ((one, other), all) in one[index].iter().zip(&other[index]).zip(&all[index]) {
                assert!((one + other - all).abs() <= 1e-5 * (one.abs() + other.abs()), "{index}, {asked:?}");
            }
        }
    }
}
