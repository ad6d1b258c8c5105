//! Tuning: what it chooses, what it gives back, and where it has no say.

use crate::common::{Problem, Storage, gpu};
use prflash::cache::{KvCache, Staircase, StoredKeys};
use prflash::kernels::{Decode, Kernel, Matrix, Tile};
use prflash::position::Pairing;
use prflash::tuning::{TuningOptions, TuningProfile};
use prflash::{Attention, DType, PlanOptions, Positions, Rope, Shape, Tables};

fn shapes() -> [Shape; 3] {
    let prefill = Shape::new(4, 2, 130, 32).unwrap();
    [prefill, prefill.with_kv_len(200).unwrap(), prefill.with_kv_len(300).unwrap().with_q_len(1).unwrap()]
}

/// One round, and few kernels: tests of what becomes of a choice aren't after the best.
fn tuning(trials: usize) -> TuningOptions {
    TuningOptions::new(1).unwrap().with_trials(trials).unwrap()
}

#[test]
fn kernels_are_known_by_name() {
    let decodes = [1, 2, 4, 8].into_iter().flat_map(|sets| [(sets, true), (sets, false)]);
    let decodes = decodes.map(|(sets, quads)| Kernel::Decode(Decode::new(sets, quads).unwrap()));
    let tiles = [1, 2, 4, 8].into_iter().flat_map(|rows| [(rows, 1, true), (rows, 8, false)]);
    let tiles = tiles.map(|(rows, keys, staged)| Kernel::Tiled(Tile::new(rows, keys, staged).unwrap()));
    let matrices = [8, 16].into_iter().flat_map(|edge| {
        [(false, false), (true, false), (false, true), (true, true)].map(|flags| (edge, flags))
    });
    let matrices = matrices
        .map(|(edge, (padded, emulated))| Kernel::Matrix(Matrix::new(edge, padded, emulated).unwrap()));
    assert_eq!(Matrix::new(12, true, true).unwrap_err().argument(), Some("edge"));
    let named = Kernel::Matrix(Matrix::new(16, true, true).unwrap());
    assert_eq!(named.to_string(), "attention_matrix_m16_padded_emulated");
    let shared = Tile::new(1, 4, false).unwrap().with_f16_products(true).with_slices(4).unwrap();
    let tiles = tiles.chain([(false, 2), (true, 1)].map(|(f16_products, slices)| {
        let tile = Tile::new(2, 4, true).unwrap().with_f16_products(f16_products);
        Kernel::Tiled(tile.with_slices(slices).unwrap())
    }));
    let tiles = tiles.chain([Kernel::Tiled(shared)]);
    assert_eq!(Kernel::Tiled(shared).to_string(), "attention_tiled_r1_k4_direct_f16products_p4");
    // Profiles of before have another name of it.
    assert_eq!("attention_tiled_r1_k4_direct_halves_p4".parse::<Kernel>().unwrap(), Kernel::Tiled(shared));
    for kernel in decodes.chain(tiles).chain(matrices).chain([Kernel::Naive]) {
        assert_eq!(kernel.to_string().parse::<Kernel>().unwrap(), kernel);
    }
    for text in [
        "",
        "naive",
        "attention_tiled",
        "attention_tiled_r3_k4_staged",
        "attention_decode_s01",
        "attention_tiled_r4_k4_stagedé",
        "attention_naive ",
        "attention_matrix_m16_emulated_padded",
        "attention_matrix_m12",
        "attention_tiled_r1_k4_direct_p1",
        "attention_tiled_r1_k4_direct_p3",
        "attention_tiled_r1_k4_direct_p2_f16products",
    ] {
        assert_eq!(text.parse::<Kernel>().unwrap_err().argument(), Some("kernel"), "{text:?}");
    }
}

#[test]
fn a_profile_is_used_on_its_device_and_for_its_classes() {
    let Some(context) = gpu("tuning") else { return };
    let attention = Attention::causal().with_lse(true);
    let profile = attention.tune(&context, &shapes(), &PlanOptions::new(), &tuning(17)).unwrap();
    assert_eq!(profile.choices.len(), 2, "{profile:?}");
    assert!(
        profile.choices.iter().all(|tuned| tuned.refused.is_empty() && tuned.ratio <= 1.0),
        "{profile:?}"
    );
    #[cfg(feature = "serde")]
    let profile: TuningProfile = {
        let text = serde_json::to_string(&profile).unwrap();
        let again: TuningProfile = serde_json::from_str(&text).unwrap();
        assert_eq!(again, profile);
        assert!(serde_json::from_str::<TuningProfile>(&text.replace("attention_", "attention")).is_err());
        again
    };
    let tuned = PlanOptions::new().with_tuning(profile.clone());
    for (shape, class) in shapes().iter().zip([0, 0, 1]) {
        let problem = Problem::random(attention.clone(), *shape, 1).with_options(tuned.clone());
        assert_eq!(problem.plan(&context).unwrap().kernel(), profile.choices[class].kernel);
        problem.check(&context, Storage::HeadsFirst, &Tables::new(), "tuned");
    }
    // A kernel that no rule takes, so that it shows where it is taken.
    let odd = Kernel::Tiled(Tile::new(8, 1, false).unwrap());
    let mut edited: TuningProfile = profile.clone();
    edited.choices[0].kernel = odd;
    let kernel = |attention: &Attention, options: &PlanOptions, shape: &Shape| {
        attention.plan_with(&context, shape, options).unwrap().kernel()
    };
    let with = |profile: &TuningProfile| PlanOptions::new().with_tuning(profile.clone());
    assert_eq!(kernel(&attention, &with(&edited), &shapes()[0]), odd);
    let halves = attention.clone().with_storage(DType::F16);
    assert_ne!(kernel(&halves, &with(&edited), &shapes()[0]), odd);
    assert_ne!(kernel(&attention, &with(&edited), &Shape::new(4, 2, 130, 64).unwrap()), odd);
    let asked = with(&edited).with_kernel(Kernel::Naive);
    assert_eq!(kernel(&attention, &asked, &shapes()[0]), Kernel::Naive);
    edited.driver += " of tomorrow";
    assert_ne!(kernel(&attention, &with(&edited), &shapes()[0]), odd);
}

/// Of many kernels some are tried, among them such as no list has, and the chosen one is right.
#[test]
fn a_few_of_many_kernels_are_tried() {
    let Some(context) = gpu("tuning by search") else { return };
    let attention = Attention::causal();
    let [shape, _, decode] = shapes();
    for (trials, tried) in [(1, 1), (3, 3), (19, 19)] {
        let profile = attention.tune(&context, &[shape], &PlanOptions::new(), &tuning(trials)).unwrap();
        let [tuned] = &profile.choices[..] else { panic!("{profile:?}") };
        assert_eq!(tuned.tried, tried, "{tuned:?}");
        assert!(tuned.candidates > 40 && tuned.refused.is_empty() && tuned.ratio <= 1.0, "{tuned:?}");
        let options = PlanOptions::new().with_tuning(profile.clone());
        let problem = Problem::random(attention.clone(), shape, 2).with_options(options);
        assert_eq!(problem.plan(&context).unwrap().kernel(), tuned.kernel);
        problem.check(&context, Storage::HeadsFirst, &Tables::new(), "tuned by search");
    }
    // Where there are few, all are.
    let profile = attention.tune(&context, &[decode], &PlanOptions::new(), &tuning(8)).unwrap();
    let quads = context.capabilities().subgroup_sizes.is_some();
    let all = if quads { 8 } else { 4 };
    assert_eq!((profile.choices[0].tried, profile.choices[0].candidates), (all, all));
}

/// Profiles from before the counts were kept.
#[cfg(feature = "serde")]
#[test]
fn older_profiles_are_read() {
    let class = r#"{"head_dim":64,"value_dim":64,"storage":"f32","rows":0}"#;
    let tuned = format!(r#"{{"class":{class},"kernel":"attention_naive","ratio":0.5,"refused":[]}}"#);
    let profile = format!(r#"{{"adapter":"a","driver":"d","choices":[{tuned}]}}"#);
    let profile: TuningProfile = serde_json::from_str(&profile).unwrap();
    assert_eq!((profile.choices[0].tried, profile.choices[0].candidates), (0, 0));
}

#[test]
fn positions_and_caches_are_classes_of_their_own() {
    let Some(context) = gpu("tuning of caches") else { return };
    let prefill = Shape::new(4, 2, 70, 16).unwrap().with_kv_len(200).unwrap();
    let decode = prefill.with_q_len(1).unwrap();
    let rope = Rope::new(16, 1e4, Pairing::Half).unwrap();
    let plain = Attention::causal();
    let turned = plain.clone().with_positions(Positions::doubly_harmonic(rope));
    let cache = |keys| KvCache::new(&context, Staircase::recommended(), &decode, keys).unwrap();
    let (stored, unturned) = (cache(StoredKeys::AfterRotation), cache(StoredKeys::BeforeRotation));
    let options = PlanOptions::new();
    let profiles = [
        turned.tune(&context, &[prefill], &options, &tuning(10)).unwrap(),
        plain.tune_cached(&stored, &[prefill, decode], &options, &tuning(12)).unwrap(),
        turned.tune_cached(&unturned, &[decode], &options, &tuning(12)).unwrap(),
    ];
    let profile = profiles.into_iter().reduce(|one, other| one.with(other).unwrap()).unwrap();
    let classes: Vec<String> = profile.choices.iter().map(|tuned| tuned.class.to_string()).collect();
    assert_eq!(classes.len(), 4, "{classes:?}");
    assert!(profile.choices.iter().all(|tuned| tuned.refused.is_empty()), "{profile:?}");
    // What no rule takes, so that it shows where it is taken.
    let odd = Kernel::Decode(Decode::new(8, false).unwrap());
    let mut edited = profile.clone();
    for tuned in &mut edited.choices {
        tuned.kernel = odd;
    }
    let edited = options.with_tuning(edited);
    assert_eq!(plain.plan_cached_with(&stored, &decode, &edited).unwrap().kernel(), odd);
    assert_eq!(turned.plan_cached_with(&unturned, &decode, &edited).unwrap().kernel(), odd);
    assert_eq!(turned.plan_with(&context, &prefill, &edited).unwrap().kernel(), odd);
    assert_ne!(plain.plan_with(&context, &decode, &edited).unwrap().kernel(), odd);
    assert_ne!(plain.plan_with(&context, &prefill, &edited).unwrap().kernel(), odd);
    // The other's choice counts, and devices don't mix.
    let again = edited.tuning().unwrap().clone().with(profile.clone()).unwrap();
    assert_eq!(again.choices, profile.choices);
    let mut elsewhere = profile.clone();
    elsewhere.adapter.push('x');
    assert_eq!(profile.with(elsewhere).unwrap_err().argument(), Some("other"));
}

#[test]
fn refusals_name_the_argument() {
    let Some(context) = gpu("tuning refusals") else { return };
    let argument = |options: PlanOptions, shapes: &[Shape]| {
        Attention::causal().tune(&context, shapes, &options, &tuning(1)).unwrap_err().argument().unwrap()
    };
    assert_eq!(argument(PlanOptions::new(), &[]), "shapes");
    assert_eq!(argument(PlanOptions::new().with_kernel(Kernel::Naive), &shapes()), "kernel");
    let other = Shape::new(4, 4, 1, 32).unwrap();
    let cache = KvCache::new(&context, Staircase::recommended(), &other, StoredKeys::AfterRotation).unwrap();
    let error =
        Attention::causal().tune_cached(&cache, &shapes(), &PlanOptions::new(), &tuning(1)).unwrap_err();
    assert_eq!(error.argument(), Some("shapes"));
}
