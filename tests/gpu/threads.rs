//! Plans that several threads use at once, and calls that are submitted in pieces.

use crate::common::gpu;
use prflash::cache::{Chunk, KvCache, Staircase, StoredKeys};
use prflash::{
    Attention, Call, Context, ContextOptions, DType, Layout, Operands, Queries, Shape, Tables, Tensor,
};

const STEPS: usize = 100;

/// Every call is cut into pieces, as on a device that may be busy for a moment only.
fn in_pieces() -> Context {
    Context::with_options_blocking(&ContextOptions::new().max_dispatch_flops(1)).unwrap()
}

fn upload(context: &Context, batch: usize, heads: usize, len: usize, value: f32) -> Tensor {
    let layout = Layout::heads_first(batch, heads, len, 64).unwrap();
    Tensor::upload(context, DType::F32, layout, &vec![value; layout.elements()]).unwrap()
}

fn all(values: &[f32], want: f32) -> bool {
    values.iter().all(|x| (x - want).abs() < 1e-3)
}

/// One thread submits calls in pieces; others do so, too, or record into encoders of their own. All
/// values of a call are equal, so that a state of another call shows.
#[test]
fn calls_in_pieces_keep_apart() {
    if gpu("threads").is_none() {
        return;
    }
    let context = in_pieces();
    let shape = Shape::new(2, 2, 1, 64).unwrap().with_kv_len(512).unwrap().with_batch(2).unwrap();
    let plan = Attention::causal().plan(&context, &shape).unwrap();
    std::thread::scope(|scope| {
        for (value, encodes) in [(1.0f32, false), (2.0, false), (3.0, true)] {
            let (context, plan) = (&context, &plan);
            scope.spawn(move || {
                let tensor = |len| upload(context, 2, 2, len, value);
                let (q, k, v, output) = (tensor(1), tensor(512), tensor(512), tensor(1));
                let operands =
                    Operands { q: q.view(), k: k.view(), v: v.view(), output: output.view(), lse: None };
                let bound = plan.bind(&operands).unwrap();
                for step in 0..STEPS {
                    output.write(context, &[0.0; 2 * 2 * 64]).unwrap();
                    let call = Call::lengths(1, 512);
                    if encodes {
                        let mut encoder = context.device().create_command_encoder(&Default::default());
                        plan.encode(&mut encoder, &bound, &call).unwrap();
                        context.queue().submit([encoder.finish()]);
                    } else {
                        plan.submit(&bound, &call).unwrap();
                    }
                    let got = output.read_blocking(context).unwrap();
                    assert!(all(&got, value), "step {step}: {:?} instead of {value}", &got[..4]);
                }
            });
        }
    });
}

/// The same over caches: the plan is one, the caches are the threads' own.
#[test]
fn cached_calls_in_pieces_keep_apart() {
    if gpu("threads over caches").is_none() {
        return;
    }
    let context = in_pieces();
    let shape = Shape::new(4, 2, 512, 64).unwrap().with_q_len(1).unwrap();
    let new_cache = || KvCache::new(&context, Staircase::plain(), &shape, StoredKeys::AfterRotation).unwrap();
    let plan = Attention::causal().plan_cached(&new_cache(), &shape).unwrap();
    std::thread::scope(|scope| {
        for value in [1.0f32, 2.0] {
            let (context, plan, mut cache) = (&context, &plan, new_cache());
            scope.spawn(move || {
                let (k, v) = (upload(context, 1, 2, 512, value), upload(context, 1, 2, 512, value));
                let sequence = cache.add();
                let input = cache.input(k.view(), v.view()).unwrap();
                let mut encoder = context.device().create_command_encoder(&Default::default());
                cache.append(&mut encoder, &input, &[Chunk { sequence, entry: 0, rows: 0..512 }]).unwrap();
                context.queue().submit([encoder.finish()]);
                let q = upload(context, 1, 4, 1, value);
                for step in 0..STEPS {
                    let queries = [Queries { sequence, entry: 0, rows: 0..1, positions: None }];
                    let result = plan.run_cached(&cache, q.view(), &queries, &Tables::new()).unwrap();
                    let got = result.output.read_blocking(context).unwrap();
                    assert!(all(&got, value), "step {step}: {:?} instead of {value}", &got[..4]);
                }
            });
        }
    });
}
