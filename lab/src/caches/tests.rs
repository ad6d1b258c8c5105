//! Plans, balances and rules.

use super::balance::Balance;
use super::plan::{alone, most_sensitive};
use super::rules::{Rule, rules};
use crate::config::{Architecture, Config};
use crate::content::memory::Memory;
use crate::staircase::{canonical, parse};
use prflash::cache::{Sensitivity, Side, Staircase};
use prflash::position::{Pairing, Scaling};

#[test]
fn rules_are_caches() {
    let known: Vec<Sensitivity> = (0..4)
        .flat_map(|layer| Side::ALL.map(|side| Sensitivity { layer, side, loss: (layer * 2) as f64 }))
        .collect();
    let all = rules();
    for (at, rule) in all.iter().enumerate() {
        assert!(!all[..at].iter().any(|other| other.cache == rule.cache), "{}", rule.name);
        assert_eq!(rule.staircases(4, Some(&known)).unwrap().len(), 4);
        assert_eq!(rule.staircases(4, None).is_err(), rule.is_calibrated());
    }
    assert!(all.iter().any(|rule| rule.is_balanced() && rule.is_calibrated()));
    let preset = all.iter().find(|rule| rule.name == "recommended, rotated").unwrap();
    assert_eq!(parse(&preset.cache).unwrap(), Staircase::recommended_rotated());
}

#[test]
fn the_most_sensitive_are_wide() {
    let of = |layer, side, loss| Sensitivity { layer, side, loss };
    let known =
        [of(0, Side::Keys, 1.0), of(0, Side::Values, 3.0), of(2, Side::Keys, 2.0), of(9, Side::Keys, 9.0)];
    let ends = ["K:8x2,4;V:8x2,4", "K:4x2,2;V:2"].map(|stairs| parse(stairs).unwrap());
    assert_eq!(most_sensitive(&known, (3, 2), [&ends[0], &ends[1]]).unwrap().count(), 2);
    let rule = Rule::new("two", "2@K:8x2,4;V:8x2,4|K:4,2;V:2;segment=64;rotated=1");
    assert!(rule.staircases(3, Some(&known)).is_err(), "a last rung without an end");
    let rule = Rule::new("two", "balanced: 2@K:8x2,4;V:8x2,4|K:4x2,2;V:2;segment=64;rotated=1");
    let got: Vec<String> = rule.staircases(3, Some(&known)).unwrap().iter().map(canonical).collect();
    let rest = ";residual=64;sinks=4;segment=64;rotated=1";
    assert_eq!(
        got,
        ["K:4x2,2;V:8x2,4", "K:4x2,2;V:2", "K:8x2,4;V:2"].map(|ladders| format!("{ladders}{rest}"))
    );
    let low = parse("K:4;V:2;segment=64;rotated=1").unwrap();
    let alone: Vec<String> = alone(2, (1, Side::Values), &low).unwrap().iter().map(canonical).collect();
    assert_eq!(alone, ["K:16;V:16", "K:16;V:2"].map(|ladders| format!("{ladders}{rest}")));
    assert!(Rule::new("bad", "x@plain|plain").staircases(1, Some(&known)).is_err());
}

fn config(layers: usize) -> Config {
    Config {
        architecture: Architecture::Llama,
        layers,
        width: 96,
        hidden: 96,
        heads: 6,
        kv_heads: 3,
        head_dim: 64,
        vocabulary: 10,
        context: 8192,
        norm_eps: 1e-5,
        pairing: Pairing::Interleaved,
        rotary_dim: 64,
        rope_base: 1e4,
        rope_scaling: Scaling::None,
        scale: None,
        soft_cap: None,
        logit_soft_cap: None,
        sliding: None,
    }
}

#[test]
fn balanced_scores_are_what_they_were() {
    let config = config(1);
    let row = config.kv_heads * config.head_dim;
    let wide = |i: usize| ((i * 7919) % 211) as f32 / 105.0 * (1 + i % 64) as f32 - 1.0;
    let keys: Vec<f32> = (0..256 * row).map(wide).collect();
    let memory = Memory { layers: vec![[keys.clone(), keys.clone()]], tokens: 256 };
    let balance = Balance::of(&config, &memory).unwrap();
    let (mut multiplied, queries) = (keys.clone(), keys[..2 * row].to_vec());
    let mut divided = queries.clone();
    balance.multiply_keys(0, &mut multiplied);
    balance.divide_queries(0, &mut divided, &config);
    assert!(multiplied != keys && divided != queries);
    let dot = |q: &[f32], k: &[f32]| q.iter().zip(k).map(|(q, k)| f64::from(q * k)).sum::<f64>();
    // Of one token six query heads, two of which share each of three key/value heads.
    for head in 0..6 {
        let (of_query, of_key) = (head * 64..(head + 1) * 64, head / 2 * 64..(head / 2 + 1) * 64);
        let want = dot(&queries[of_query.clone()], &keys[of_key.clone()]);
        let got = dot(&divided[of_query], &multiplied[of_key]);
        assert!((want - got).abs() < 1e-3 * want.abs().max(1.0), "{head}: {want}, {got}");
    }
}
