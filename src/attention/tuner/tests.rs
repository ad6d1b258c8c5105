//! Tuning without a device: kernels with made times.

use naga::AddressSpace::WorkGroup;

use super::candidates::Candidates;
use super::choice::{Bench, Choice, Verdict, choose};
use crate::attention::kernels::rule::Task;
use crate::attention::kernels::shapes::{Kernel, Tile};
use crate::attention::kernels::variant::{PositionsVariant, Variant, Wide};
use crate::attention::tuning::{ShapeClass, Tuned, TuningProfile};
use crate::cache::gpu::variant::CacheVariant;
use crate::error::Result;
use crate::layout::DType;
use crate::position::Pairing;
use crate::random::hash_words;
use crate::runtime::capabilities::Capabilities;
use crate::runtime::program::Program;
use crate::search::{Ask, Method, Random, Search, Tpe};

/// A graphics card with subgroups of 32 and matrix units.
fn card() -> Capabilities {
    Capabilities {
        adapter: String::new(),
        driver: String::new(),
        backend: wgpu::Backend::Vulkan,
        device_type: wgpu::DeviceType::DiscreteGpu,
        subgroup_sizes: Some((32, 32)),
        f16_arithmetic: true,
        timestamps: true,
        max_binding_bytes: 1 << 30,
        max_buffer_bytes: 1 << 30,
        max_workgroups_per_dimension: 65_535,
        max_workgroup_invocations: 1024,
        max_workgroup_bytes: 65_536,
        cooperative_matrices: vec![16],
    }
}

/// Many queries in f32.
fn task() -> Task {
    Task {
        head_dim: 64,
        value_dim: 64,
        positions: PositionsVariant::default(),
        masked: false,
        paged: false,
        q_len: 100,
        heads_per_kv: 4,
        storage: DType::F32,
        cache: None,
        f16_products: false,
    }
}

fn f16_products() -> Task {
    Task { storage: DType::F16, f16_products: true, ..task() }
}

fn turned() -> Task {
    let positions = PositionsVariant { rope: Some((Pairing::Half, 64)), ..PositionsVariant::default() };
    Task { positions, ..task() }
}

fn few() -> Task {
    Task { q_len: 1, ..task() }
}

fn cached() -> Task {
    let cache = Some(CacheVariant { widths: [0; 2], group: 32, rotate_keys: false });
    Task { cache, ..task() }
}

fn candidates(capabilities: &Capabilities, task: &Task) -> Candidates {
    let rule = Kernel::choices(capabilities, task)[0].0;
    Candidates::new(capabilities, task, rule).unwrap()
}

#[test]
fn candidates_are_all_that_run() {
    let on = |capabilities: &Capabilities, task: &Task| {
        let candidates = candidates(capabilities, task);
        for &kernel in candidates.all() {
            kernel.check(capabilities, task).unwrap();
        }
        (candidates.all().len(), candidates.starts().len())
    };
    let card = card();
    // Of 4 · 4 · 2 · 3 tiles those that share rows among subgroups have at most two rows.
    assert_eq!(on(&card, &task()), (96 - 4 * 2 * 2 + 1, 15));
    // Twice as many tiles, and two kernels on matrix units.
    assert_eq!(on(&card, &f16_products()), (2 * 80 + 1 + 2, 20));
    assert_eq!(on(&card, &Task { f16_products: false, ..f16_products() }), (80 + 1 + 2, 17));
    // Staged tiles alone; four keys at a time.
    assert_eq!(on(&card, &turned()), (48 + 1, 9));
    assert_eq!(on(&card, &cached()), (12, 5));
    assert_eq!(on(&card, &few()), (8, 1));
    let plain = Capabilities { subgroup_sizes: None, ..card };
    assert_eq!(on(&plain, &few()), (4, 1));
    assert_eq!(on(&plain, &task()), (64 + 1, 13));
    // Without the tiles of eight rows, a quarter of all.
    let software = Capabilities { device_type: wgpu::DeviceType::Cpu, ..plain };
    assert_eq!(on(&software, &task()), (64 * 3 / 4 + 1, 13));
}

#[test]
fn points_and_kernels_belong_to_each_other() {
    for task in [task(), f16_products(), turned(), cached(), few()] {
        let candidates = candidates(&card(), &task);
        let mut found = Vec::new();
        let mut search = Search::new(candidates.space().clone(), crate::search::Grid, 1);
        while let Ask::Trial(trial) = search.ask() {
            let kernel = candidates.kernel(&trial.point);
            assert!(kernel.is_none_or(|kernel| candidates.point(kernel) == Some(trial.point)));
            found.extend(kernel);
        }
        let pointed = |kernel: &&Kernel| matches!(kernel, Kernel::Tiled(_) | Kernel::Decode(_));
        assert_eq!(found.len(), candidates.all().iter().filter(pointed).count());
        assert!(found.iter().all(|kernel| candidates.all().contains(kernel)));
        // Others are where a search begins, since it can't propose them.
        let mut others = candidates.all().iter().filter(|kernel| !pointed(kernel));
        assert!(others.all(|kernel| candidates.starts().contains(kernel)));
    }
}

/// Most of them are chosen by no plan, and so in no list of texts to validate.
#[test]
fn texts_of_all_candidates_are_valid() {
    use naga::valid::{
        Capabilities as Valid, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator,
    };
    for task in [f16_products(), turned(), cached()] {
        for &kernel in candidates(&card(), &task).all() {
            let variant = Variant {
                positions: task.positions,
                cache: task.cache,
                ..Variant::new(kernel, task.storage, [task.head_dim, task.value_dim])
            };
            for blocks in [false, variant.wide_quads().is_some()] {
                let text = if blocks { Wide(variant).source() } else { variant.source() };
                let module = naga::front::wgsl::parse_str(&text).unwrap();
                let mut validator = Validator::new(ValidationFlags::all(), Valid::all());
                validator
                    .subgroup_stages(ShaderStages::COMPUTE)
                    .subgroup_operations(SubgroupOperationSet::all());
                validator.validate(&module).unwrap_or_else(|error| panic!("{kernel}: {error:?}"));
                let shared = module.global_variables.iter().filter(|(_, v)| v.space == WorkGroup);
                let bytes: u32 = shared.map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx())).sum();
                let said = kernel.workgroup_bytes(task.head_dim, task.value_dim);
                assert!(bytes as usize <= said, "{kernel}: {bytes} bytes, {said} said");
            }
        }
    }
}

/// Kernels with made times, and what was asked of them.
struct Made<'a> {
    /// The logarithm of a kernel's time in the call of this number.
    time: &'a dyn Fn(Kernel, usize) -> f64,
    verdict: &'a dyn Fn(Kernel) -> Verdict,
    tried: Vec<Kernel>,
    timed: Vec<Vec<Kernel>>,
}

impl<'a> Made<'a> {
    fn new(time: &'a dyn Fn(Kernel, usize) -> f64) -> Self {
        Self { time, verdict: &|_| Verdict::Right, tried: Vec::new(), timed: Vec::new() }
    }

    fn choose<M: Method>(&mut self, candidates: &Candidates, trials: usize, method: M, seed: u64) -> Choice {
        let choice = pollster::block_on(choose(self, candidates, trials, method, seed)).unwrap();
        assert_eq!(choice.tried, self.tried.len());
        assert_eq!(choice.tried, trials.min(candidates.all().len()));
        assert!(self.tried.iter().all(|kernel| candidates.all().contains(kernel)));
        choice
    }
}

impl Bench for Made<'_> {
    async fn verdict(&mut self, kernel: Kernel) -> Result<Verdict> {
        assert!(!self.tried.contains(&kernel), "{kernel} a second time");
        self.tried.push(kernel);
        Ok((self.verdict)(kernel))
    }

    async fn times(&mut self, kernels: &[Kernel]) -> Result<Vec<f64>> {
        for &kernel in kernels {
            assert!(self.tried.contains(&kernel) && (self.verdict)(kernel) == Verdict::Right, "{kernel}");
        }
        self.timed.push(kernels.to_vec());
        let call = self.timed.len();
        Ok(kernels.iter().map(|&kernel| (self.time)(kernel, call)).collect())
    }
}

/// A number between 0 and 1.
fn hashed(words: &[u32]) -> f64 {
    f64::from(hash_words(words)) / (1u64 << 32) as f64
}

/// Times that grow with the distance from one kernel, by another amount for each parameter, and a
/// little unevenly.
fn around(candidates: &Candidates, best: Kernel, seed: u32) -> impl Fn(Kernel) -> f64 {
    let at = candidates.point(best).unwrap();
    move |kernel| {
        let Some(point) = candidates.point(kernel) else { return 3.0 };
        let steps = point.indices().iter().zip(at.indices()).zip(0..).map(|((a, b), parameter)| {
            let each = 0.1 + 0.4 * hashed(&[seed, 1, parameter]);
            each * f64::from(a.abs_diff(*b))
        });
        let own: Vec<u32> = [seed, 2].into_iter().chain(point.indices().iter().copied()).collect();
        let uneven = if kernel == best { 0.0 } else { 0.1 + 0.1 * hashed(&own) };
        steps.sum::<f64>() + uneven
    }
}

/// A kernel that no search begins with.
fn hidden(candidates: &Candidates, seed: u32) -> Kernel {
    let hidden = &candidates.all()[candidates.starts().len()..];
    hidden[hash_words(&[seed]) as usize % hidden.len()]
}

#[test]
fn the_best_of_many_is_found() {
    let candidates = candidates(&card(), &task());
    let found = |by_tpe: bool| {
        let hits = |seed: &u32| {
            let best = hidden(&candidates, *seed);
            let time = around(&candidates, best, *seed);
            let time = |kernel, _| time(kernel);
            let mut made = Made::new(&time);
            let choice = match by_tpe {
                true => made.choose(&candidates, 32, Tpe::new(), (*seed).into()),
                false => made.choose(&candidates, 32, Random, (*seed).into()),
            };
            choice.kernel == best
        };
        (0..100).filter(hits).count()
    };
    let (tpe, random) = (found(true), found(false));
    assert!(tpe >= 90 && random <= 50, "{tpe} by TPE, {random} at random");
}

#[test]
fn as_many_are_tried_as_allowed() {
    for task in [task(), f16_products(), turned(), cached(), few()] {
        let candidates = candidates(&card(), &task);
        let rule = candidates.all()[0];
        let all = candidates.all().len();
        for trials in [1, 2, 5, 6, 16, 24, 32, all - 1, all, all + 1, usize::MAX] {
            let time = |kernel: Kernel, _| hashed(&[kernel.to_string().len() as u32]);
            let mut made = Made::new(&time);
            let choice = made.choose(&candidates, trials, Tpe::new(), 1);
            assert_eq!(made.tried[0], rule);
            assert!(made.tried.contains(&choice.kernel));
            if trials < all {
                // The rule's choice is in every set of rounds.
                assert!(made.timed.iter().all(|timed| timed[0] == rule));
                assert!(made.timed.last().unwrap().len() <= 5);
            } else {
                assert_eq!(made.timed, [candidates.all()]);
            }
        }
    }
}

#[test]
fn all_of_few_are_timed_together() {
    let candidates = candidates(&card(), &few());
    for &best in candidates.all() {
        let time = |kernel, _| if kernel == best { 0.5f64.ln() } else { 0.0 };
        let choice = Made::new(&time).choose(&candidates, 8, Tpe::new(), 1);
        let ratio = if best == candidates.all()[0] { 1.0 } else { 0.5 };
        assert_eq!((choice.kernel, (choice.ratio * 1e9).round() / 1e9), (best, ratio));
    }
}

/// The device becomes slower and slower, or faster.
#[test]
fn drift_changes_nothing() {
    let candidates = candidates(&card(), &task());
    let run = |drift: f64, seed: u32| {
        let time = around(&candidates, hidden(&candidates, seed), seed);
        // To multiples of a power of two, so that sums are exact.
        let round = |x: f64| (x * 1024.0).round() / 1024.0;
        let time = |kernel, call: usize| round(time(kernel)) + drift * call as f64;
        let mut made = Made::new(&time);
        let choice = made.choose(&candidates, 32, Tpe::new(), 1);
        (choice, made.tried)
    };
    for seed in 0..10 {
        let still = run(0.0, seed);
        assert_eq!(run(0.0, seed), still);
        assert_eq!(run(0.5, seed), still);
        assert_eq!(run(-2.0, seed), still);
    }
}

#[test]
fn what_is_within_noise_stays_the_rules() {
    let candidates = candidates(&card(), &task());
    let rule = candidates.all()[0];
    let other = candidates.starts()[3];
    for trials in [32, usize::MAX] {
        for (ratio, chosen) in [(0.98, rule), (0.96, other)] {
            let time = |kernel, _| if kernel == other { f64::ln(ratio) } else { 0.0 };
            let choice = Made::new(&time).choose(&candidates, trials, Tpe::new(), 1);
            let ratio = if chosen == rule { 1.0 } else { ratio };
            assert!(choice.kernel == chosen && (choice.ratio - ratio).abs() < 1e-9, "{choice:?}");
        }
    }
}

/// What a search found may have been luck.
#[test]
fn the_last_rounds_decide() {
    let candidates = candidates(&card(), &task());
    let [rule, lucky, good] = [0, 2, 5].map(|at| candidates.starts()[at]);
    let last = 32 - candidates.starts().len() + 2;
    let time = |kernel, call| match kernel {
        _ if kernel == lucky => {
            if call < last {
                -2.0
            } else {
                0.5
            }
        }
        _ if kernel == good => -0.5,
        _ => 0.0,
    };
    let mut made = Made::new(&time);
    let choice = made.choose(&candidates, 32, Tpe::new(), 1);
    assert_eq!((made.timed.len(), choice.kernel), (last, good));
    assert_eq!(made.timed.last().unwrap()[..3], [rule, lucky, good]);
}

#[test]
fn wrong_kernels_and_those_that_cannot_run_are_passed_over() {
    let candidates = candidates(&card(), &task());
    let rule = candidates.all()[0];
    let of = |kernel: Kernel| match hash_words(&[kernel.to_string().bytes().map(u32::from).sum()]) % 4 {
        _ if kernel == rule => Verdict::Right,
        0 => Verdict::Wrong,
        1 => Verdict::Unsupported,
        _ => Verdict::Right,
    };
    for trials in [20, 32, usize::MAX] {
        for seed in 0..10 {
            let time = around(&candidates, hidden(&candidates, seed), seed);
            // The wrong ones would be the fastest.
            let time = |kernel, _| if of(kernel) == Verdict::Right { time(kernel) } else { -9.0 };
            let mut made = Made { verdict: &of, ..Made::new(&time) };
            let choice = made.choose(&candidates, trials, Tpe::new(), seed.into());
            let wrong = |kernel: &Kernel| of(*kernel) == Verdict::Wrong;
            assert_eq!(choice.refused, made.tried.iter().copied().filter(wrong).collect::<Vec<_>>());
            assert!(!choice.refused.is_empty() && of(choice.kernel) == Verdict::Right);
        }
    }
}

#[test]
fn without_the_rules_choice_the_best_of_the_others_is_taken() {
    let candidates = candidates(&card(), &task());
    let rule = candidates.all()[0];
    let best = hidden(&candidates, 3);
    let time = around(&candidates, best, 3);
    let time = |kernel, _| time(kernel);
    let none = |_: Kernel| Verdict::Wrong;
    let not_the_rule = |kernel| if kernel == rule { Verdict::Wrong } else { Verdict::Right };
    let started =
        |kernel| if candidates.starts().contains(&kernel) { Verdict::Unsupported } else { Verdict::Right };
    for trials in [40, usize::MAX] {
        let mut made = Made { verdict: &not_the_rule, ..Made::new(&time) };
        let choice = made.choose(&candidates, trials, Tpe::new(), 1);
        assert_eq!((choice.kernel, choice.ratio, choice.refused), (best, 1.0, vec![rule]));
        let mut made = Made { verdict: &started, ..Made::new(&time) };
        let choice = made.choose(&candidates, trials, Tpe::new(), 1);
        assert!(!candidates.starts().contains(&choice.kernel) && choice.ratio == 1.0);
        let mut made = Made { verdict: &none, ..Made::new(&time) };
        let error = pollster::block_on(choose(&mut made, &candidates, trials, Tpe::new(), 1)).unwrap_err();
        assert_eq!((error.argument(), made.timed.len()), (Some("kernel"), 0));
    }
}

#[test]
fn a_profile_gives_no_products_in_f16_to_plans_that_want_them_exact() {
    let tile = Tile::new(1, 4, false).unwrap();
    let profile = |kernel: Kernel| {
        let class = ShapeClass::of(&f16_products());
        let tuned = Tuned { class, kernel, ratio: 0.5, refused: Vec::new(), tried: 0, candidates: 0 };
        TuningProfile { adapter: String::new(), driver: String::new(), choices: vec![tuned] }
    };
    let exact = Task { f16_products: false, ..f16_products() };
    let kernel = Kernel::Tiled(tile.with_f16_products(true));
    assert_eq!(profile(kernel).choice(&card(), &f16_products()), Some(kernel));
    assert_eq!(profile(kernel).choice(&card(), &exact), None);
    let kernel = Kernel::Tiled(tile);
    assert_eq!(profile(kernel).choice(&card(), &exact), Some(kernel));
}
