//! What comparison computes.

use super::compare::kl;
use super::rules::{at_part, rules};
use crate::content::passkeys::{self, Reading};

#[test]
fn rules_are_settings_and_have_the_bytes_that_they_should() {
    for width in [1024, 2048, 4096] {
        let all = rules(width);
        assert!(all.iter().all(|rule| rule.setting().is_ok()));
        assert!(all.iter().enumerate().all(|(at, rule)| !all[..at].contains(rule)));
        assert_eq!(at_part(width, 8).len(), at_part(width, 4).len() + 1);
    }
    for reading in [Reading::Dense, Reading::Sparse] {
        assert!(passkeys::rules(2048, reading).iter().all(|rule| rule.setting().is_ok()));
    }
}

#[test]
fn divergences() {
    let log = |p: &[f64]| p.iter().map(|p| p.ln() as f32).collect::<Vec<f32>>();
    let (p, q) = (log(&[0.5, 0.25, 0.25]), log(&[0.25, 0.25, 0.5]));
    assert_eq!(kl(&p, &p), 0.0);
    assert!((kl(&p, &q) - 0.25 * 2f64.ln()).abs() < 1e-6);
}
