//! Pipelines that are waited for, and errors that no call of ours tells of.

use crate::common::{Problem, Storage, gpu};
use prflash::attention::{GpuSampler, GpuSummaries};
use prflash::cache::{KvCache, Staircase, StoredKeys};
use prflash::device::Compiling;
use prflash::kernels::{Decode, Kernel};
use prflash::position::Pairing;
use prflash::rounds::Combine;
use prflash::sampling::content::{Estimate, Participation, Probe};
use prflash::{
    Attention, BlockGrid, Context, ContextOptions, DType, Layout, PlanOptions, Profile, Rope, Shape,
    Systematic, Tables, Tensor, wgpu,
};

/// What a plan tells while it is prepared: `done` counts up to `total`, every pipeline has a name
/// of its own, and nothing is waited for in the end.
#[derive(Default)]
struct Told(Vec<(usize, usize, String)>);

impl Told {
    fn tell(&mut self, now: Compiling<'_>) {
        self.0.push((now.done, now.total, now.waiting_for.to_owned()));
    }

    /// The names of the pipelines.
    fn names(self, what: &str) -> Vec<String> {
        let total = self.0.len() - 1;
        let counts: Vec<_> = self.0.iter().map(|&(done, of, _)| (done, of)).collect();
        assert_eq!(counts, (0..=total).map(|done| (done, total)).collect::<Vec<_>>(), "{what}");
        let mut names: Vec<String> = self.0.into_iter().map(|(.., name)| name).collect();
        assert_eq!(names.pop().unwrap(), "", "{what}");
        let mut distinct = names.clone();
        distinct.sort();
        distinct.dedup();
        assert!(distinct.len() == total && !names.contains(&String::new()), "{what}: {names:?}");
        names
    }
}

/// The pipelines that `prepare` of a value tells of.
macro_rules! pipelines {
    ($value:expr $(, $argument:expr)*) => {{
        let mut told = Told::default();
        pollster::block_on($value.prepare($($argument,)* |now| told.tell(now))).unwrap();
        told.names(stringify!($value))
    }};
}

#[test]
fn every_plan_tells_of_its_pipelines() {
    let Some(context) = gpu("plans are prepared") else { return };
    let shape = Shape::new(2, 1, 128, 32).unwrap();
    let attention = Attention::causal();
    let plan = attention.plan(&context, &shape).unwrap();
    let of_plan = pipelines!(plan);
    assert!(of_plan.len() == 1 && of_plan[0].starts_with("attention_"), "{of_plan:?}");
    assert_eq!(pipelines!(plan.rounds(Combine::Independent).unwrap()).len(), 2);
    let grid = BlockGrid::causal(&shape);
    // Triangles that write results or states, strips that aren't causal: causality is no variant.
    let reshaped = pipelines!(plan.reshaped(&grid).unwrap());
    assert!(reshaped.len() >= 3, "{reshaped:?}");
    let options = PlanOptions::new().with_kernel(Kernel::Decode(Decode::new(1, false).unwrap()));
    let decode = attention.plan_with(&context, &shape.with_q_len(1).unwrap(), &options);
    if let Ok(decode) = decode {
        assert_eq!(pipelines!(decode).len(), 2);
    }
    let backward = attention.clone().with_lse(true).plan_backward(&context, &shape).unwrap();
    assert_eq!(pipelines!(backward).len(), 4);
    let rope = Rope::new(32, 1e4, Pairing::Half).unwrap();
    assert_eq!(pipelines!(rope.plan_rotation(&context, DType::F32, 128).unwrap()).len(), 1);
    let sampler = GpuSampler::new(&context, &grid, 1, &Profile::harmonic(), &Systematic).unwrap();
    assert_eq!(pipelines!(sampler).len(), 3);
    let participation = Participation::content(2).unwrap();
    let selector =
        plan.selector(&grid, &participation, Estimate::Saturated, Probe::causal(2).unwrap()).unwrap();
    assert_eq!(pipelines!(selector).len(), 3);
    assert_eq!(pipelines!(selector.with_missing().unwrap()).len(), 6);
    let keys = Tensor::zeros(&context, DType::F32, Layout::heads_first(1, 1, 128, 32).unwrap()).unwrap();
    assert_eq!(pipelines!(GpuSummaries::new(&context, &attention, keys.view(), 16, 1).unwrap()).len(), 1);
    let cache = KvCache::new(&context, Staircase::recommended(), &shape, StoredKeys::AfterRotation).unwrap();
    assert_eq!(pipelines!(cache, DType::F16).len(), 6);
}

#[test]
fn errors_of_no_call_of_ours_are_told_once() {
    if gpu("late errors").is_none() {
        return;
    }
    let context = Context::new_blocking().unwrap();
    pollster::block_on(context.check()).unwrap();
    // A buffer without a usage is refused, and nobody listens.
    let refused = |label| {
        context.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: 16,
            usage: wgpu::BufferUsages::empty(),
            mapped_at_creation: false,
        })
    };
    let _ = (refused("the first"), refused("the second"));
    let error = pollster::block_on(context.check()).unwrap_err();
    assert!(error.is_validation() && error.to_string().contains("the first"), "{error}");
    pollster::block_on(context.check()).unwrap();
    // Of a call of ours the call itself tells.
    let rows = (context.capabilities().max_buffer_bytes / 4 / 256 + 1) as usize;
    if let Ok(layout) = Layout::heads_first(1, 1, rows, 256) {
        Tensor::zeros(&context, DType::F32, layout).unwrap_err();
    }
    pollster::block_on(context.check()).unwrap();
    let _ = refused("before the end");
    context.device().destroy();
    let error = pollster::block_on(context.check()).unwrap_err();
    assert!(error.is_device_lost() && error.to_string().contains("before the end"), "{error}");
    assert!(pollster::block_on(context.check()).unwrap_err().is_device_lost());
}

#[test]
fn subgroups_can_be_left_out() {
    if gpu("no subgroups").is_none() {
        return;
    }
    let context = Context::with_options_blocking(&ContextOptions::new().subgroups(false)).unwrap();
    assert_eq!(context.capabilities().subgroup_sizes, None);
    assert!(!context.device().features().contains(wgpu::Features::SUBGROUP));
    let shape = Shape::new(4, 1, 70, 64).unwrap();
    for shape in [shape, shape.with_q_len(1).unwrap()] {
        Problem::random(Attention::causal(), shape, 7).check(
            &context,
            Storage::HeadsFirst,
            &Tables::new(),
            "without subgroups",
        );
    }
}
