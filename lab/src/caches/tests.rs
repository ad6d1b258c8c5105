//! Plans and rules.

use super::plan::{alone, most_sensitive};
use super::rules::{Rule, rules};
use crate::staircase::{canonical, parse};
use prflash::cache::{Sensitivity, Side, Staircase};

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
    let rule = Rule::new("two", "2@K:8x2,4;V:8x2,4|K:4x2,2;V:2;segment=64;rotated=1");
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
