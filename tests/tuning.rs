//! Tuning: what it chooses, what it gives back, and where it has no say.

mod common;

use common::{Problem, Storage, gpu};
use prflash::{Attention, DType, Decode, Kernel, Matrix, Shape, Tables, Tile, TuningProfile};

fn shapes() -> [Shape; 3] {
    let prefill = Shape::new(4, 2, 130, 32).unwrap();
    [prefill, prefill.with_kv_len(200).unwrap(), prefill.with_kv_len(300).unwrap().with_q_len(1).unwrap()]
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
    ] {
        assert_eq!(text.parse::<Kernel>().unwrap_err().argument(), Some("kernel"), "{text:?}");
    }
}

#[test]
fn a_profile_is_used_on_its_device_and_for_its_classes() {
    let Some(context) = gpu("tuning") else { return };
    let attention = Attention::causal().with_lse(true);
    let profile = attention.tune(&context, &shapes(), 1).unwrap();
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
    let tuned = attention.clone().with_tuning(profile.clone());
    for (shape, class) in shapes().iter().zip([0, 0, 1]) {
        assert_eq!(tuned.plan(&context, shape).unwrap().kernel(), profile.choices[class].kernel);
        Problem::random(tuned.clone(), *shape, 1).check(
            &context,
            Storage::HeadsFirst,
            &Tables::new(),
            "tuned",
        );
    }
    // A kernel that no rule takes, so that it shows where it is taken.
    let odd = Kernel::Tiled(Tile::new(8, 1, false).unwrap());
    let mut edited: TuningProfile = profile.clone();
    edited.choices[0].kernel = odd;
    let kernel = |attention: Attention, shape: &Shape| attention.plan(&context, shape).unwrap().kernel();
    let with = |profile: &TuningProfile| attention.clone().with_tuning(profile.clone());
    assert_eq!(kernel(with(&edited), &shapes()[0]), odd);
    assert_ne!(kernel(with(&edited).with_storage(DType::F16), &shapes()[0]), odd);
    assert_ne!(kernel(with(&edited), &Shape::new(4, 2, 130, 64).unwrap()), odd);
    assert_eq!(kernel(with(&edited).with_kernel(Kernel::Naive), &shapes()[0]), Kernel::Naive);
    edited.driver += " of tomorrow";
    assert_ne!(kernel(with(&edited), &shapes()[0]), odd);
}

#[test]
fn refusals_name_the_argument() {
    let Some(context) = gpu("tuning refusals") else { return };
    let argument = |attention: Attention, shapes: &[Shape], rounds| {
        attention.tune(&context, shapes, rounds).unwrap_err().argument().unwrap()
    };
    assert_eq!(argument(Attention::causal(), &[], 1), "shapes");
    assert_eq!(argument(Attention::causal(), &shapes(), 0), "rounds");
    assert_eq!(argument(Attention::causal().with_kernel(Kernel::Naive), &shapes(), 1), "kernel");
}
