use std::collections::HashSet;

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::random::hash_words;

/// Six parameters of both kinds, 4,320 points.
fn space() -> Space {
    Space::new([
        Parameter::ordinal("window", [1, 2, 4, 8, 16]).unwrap(),
        Parameter::ordinal("rate", [0.01, 0.02, 0.05, 0.1]).unwrap(),
        Parameter::nominal("kind", ["a", "b", "c"]).unwrap(),
        Parameter::ordinal("epochs", [1, 2, 3, 4, 5, 6]).unwrap(),
        Parameter::nominal("flag", ["on", "off"]).unwrap(),
        Parameter::ordinal("size", [10, 20, 40, 80, 160, 320]).unwrap(),
    ])
    .unwrap()
}

/// The largest is 0, at one point; what is next to its values is better than what is far.
fn score(space: &Space, point: &Point) -> f64 {
    let number = |name: &str| space.value(point, name).unwrap().number().unwrap();
    let text = |name: &str| space.value(point, name).unwrap().to_string();
    let far = (number("window") / 8.0).log2().abs()
        + (number("rate") / 0.05).log2().abs()
        + (number("epochs") - 4.0).abs() / 2.0
        + (number("size") / 80.0).log2().abs();
    -far - if text("kind") == "b" { 0.0 } else { 1.0 } - if text("flag") == "on" { 0.0 } else { 0.5 }
}

/// What was asked, in words, with every score told as soon as it is known.
fn trace<M: Method>(search: &mut Search<M>, trials: usize) -> Vec<String> {
    let mut asked = Vec::new();
    while asked.len() < trials {
        let Ask::Trial(trial) = search.ask() else { break };
        asked.push(words(search.space(), &trial));
        let score = score(search.space(), &trial.point);
        search.tell(trial.id, score).unwrap();
    }
    asked
}

/// Values by their names, in the order of these.
fn words(space: &Space, trial: &Trial) -> String {
    let mut values: Vec<String> = space.describe(&trial.point).split(", ").map(str::to_owned).collect();
    values.sort();
    format!("{} {} {}", values.join(", "), trial.seed, trial.fidelity)
}

/// A cross-entropy method of either family.
#[derive(Clone, Copy, Debug)]
enum Family {
    Rows(CrossEntropy),
    Tree(TreeCrossEntropy),
}

impl Family {
    fn distribution(&self, history: &History) -> Vec<Vec<f64>> {
        match self {
            Self::Rows(method) => method.distribution(history),
            Self::Tree(method) => method.distribution(history),
        }
    }
}

impl Method for Family {
    fn next(&self, history: &History) -> Next {
        match self {
            Self::Rows(method) => method.next(history),
            Self::Tree(method) => method.next(history),
        }
    }
}

fn methods() -> [Family; 5] {
    let tree = TreeCrossEntropy::recommended();
    [
        Family::Rows(CrossEntropy::paper(24, 0.2, 0.7).unwrap()),
        Family::Rows(CrossEntropy::elite_of_all()),
        Family::Rows(CrossEntropy::paper(7, 0.5, 1.0).unwrap().with_elite(Elite::OfAll(3)).unwrap()),
        Family::Tree(tree),
        Family::Tree(tree.with_round(4).unwrap().with_startup(2).with_candidates(6).unwrap()),
    ]
}

#[test]
fn rows_are_probabilities_and_points_keep_the_floor() {
    for method in methods() {
        let mut search = Search::new(space(), method, 5);
        for _ in 0..100 {
            trace(&mut search, 1);
            for row in method.distribution(search.history()) {
                assert!(
                    (row.iter().sum::<f64>() - 1.0).abs() < 1e-12 && row.iter().all(|&p| p >= -1e-12),
                    "{row:?}"
                );
            }
        }
    }
    // With a floor of all, every round is as the first, whatever was told.
    let even = Family::Rows(CrossEntropy::elite_of_all().with_floor(1.0).unwrap());
    let random = trace(&mut Search::new(space(), Random, 5), 60);
    assert_eq!(trace(&mut Search::new(space(), even, 5), 60), random);
    // And so are the first trials of all.
    let first = Family::Tree(TreeCrossEntropy::recommended().with_startup(60));
    assert_eq!(trace(&mut Search::new(space(), first, 5), 60), random);
}

#[test]
fn the_same_seed_gives_the_same_trials() {
    for method in methods() {
        let run = |seed| trace(&mut Search::new(space(), method, seed), 100);
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }
}

#[test]
fn without_smoothing_it_is_random_search() {
    let still = CrossEntropy::paper(12, 0.3, 0.0).unwrap();
    let run = trace(&mut Search::new(space(), still, 3), 80);
    assert_eq!(run, trace(&mut Search::new(space(), Random, 3), 80));
}

#[test]
fn the_order_of_telling_leaves_no_trace() {
    let mut rng = SmallRng::seed_from_u64(1);
    for method in methods() {
        let whole = trace(&mut Search::new(space(), method, 9), 72);
        let mut search = Search::new(space(), method, 9);
        let (mut asked, mut open) = (Vec::new(), Vec::new());
        while asked.len() < 72 {
            match search.ask() {
                Ask::Trial(trial) => {
                    asked.push(words(search.space(), &trial));
                    open.push(trial);
                }
                Ask::Wait => {
                    open.shuffle(&mut rng);
                    for trial in open.drain(..) {
                        let score = score(search.space(), &trial.point);
                        search.tell(trial.id, score).unwrap();
                    }
                }
                Ask::Exhausted => unreachable!(),
            }
        }
        assert_eq!(asked, whole);
    }
}

#[test]
fn what_is_taken_up_again_goes_on_as_before() {
    for method in methods() {
        let whole = trace(&mut Search::new(space(), method, 4), 60);
        for stop in [0, 1, 11, 12, 13, 24, 59] {
            let mut first = Search::new(space(), method, 4);
            let mut asked = trace(&mut first, stop);
            let trials = first.history().trials().iter();
            let trials = trials.map(|trial| (trial.clone(), first.history().score(trial.id)));
            let mut second = Search::new(space(), method, 4).resumed(trials).unwrap();
            asked.extend(trace(&mut second, 60 - stop));
            assert_eq!(asked, whole, "stopped at {stop}");
        }
    }
}

#[test]
fn tpe_goes_on_as_before_and_by_ranks_alone() {
    let run = |map: fn(f64) -> f64, stop: usize| {
        let mut search = Search::new(space(), Tpe::new(), 11);
        let mut asked = Vec::new();
        for number in 0..50 {
            if number == stop {
                let trials = search.history().trials().iter();
                let trials: Vec<_> =
                    trials.map(|trial| (trial.clone(), search.history().score(trial.id))).collect();
                search = Search::new(space(), Tpe::new(), 11).resumed(trials).unwrap();
            }
            let Ask::Trial(trial) = search.ask() else { panic!("exhausted") };
            asked.push(words(search.space(), &trial));
            let score = map(score(search.space(), &trial.point));
            search.tell(trial.id, score).unwrap();
        }
        asked
    };
    let whole = run(|x| x, 50);
    assert_eq!(whole, run(|x| x, 20));
    assert_eq!(whole, run(|x| (x / 3.0).exp(), 7));
    assert_ne!(whole, run(|x| -x, 50));
}

#[test]
fn only_ranks_of_scores_matter() {
    for method in methods() {
        let run = |map: fn(f64) -> f64| {
            let mut search = Search::new(space(), method, 8);
            let mut asked = Vec::new();
            for _ in 0..80 {
                let Ask::Trial(trial) = search.ask() else { panic!("exhausted") };
                asked.push(words(search.space(), &trial));
                let score = map(score(search.space(), &trial.point));
                search.tell(trial.id, score).unwrap();
            }
            asked
        };
        assert_eq!(run(|x| x), run(|x| (x / 3.0).exp() * 1e-6));
        assert_eq!(run(|x| x), run(|x| x * x * x - 7.0));
        assert_ne!(run(|x| x), run(|x| -x));
    }
}

#[test]
fn the_order_of_nominal_values_and_of_parameters_leaves_no_trace() {
    let other = Space::new([
        Parameter::nominal("flag", ["off", "on"]).unwrap(),
        Parameter::nominal("kind", ["c", "a", "b"]).unwrap(),
        // The other way round it is the same order.
        Parameter::ordinal("size", [320, 160, 80, 40, 20, 10]).unwrap(),
        Parameter::ordinal("window", [1, 2, 4, 8, 16]).unwrap(),
        Parameter::ordinal("rate", [0.01, 0.02, 0.05, 0.1]).unwrap(),
        Parameter::ordinal("epochs", [1, 2, 3, 4, 5, 6]).unwrap(),
    ]);
    let other = other.unwrap();
    for method in methods() {
        let [one, two] = [space(), other.clone()].map(|space| trace(&mut Search::new(space, method, 6), 90));
        // Not by `assert_eq`, which would print them.
        assert!(one == two, "{method:?}");
    }
    for seed in 0..5 {
        let run = |space| trace(&mut Search::new(space, Balanced, seed), 90);
        assert!(run(space()) == run(other.clone()), "{seed}");
        let run = |space| trace(&mut Search::new(space, Tpe::new(), seed), 40);
        assert!(run(space()) == run(other.clone()), "{seed}");
    }
}

#[test]
fn every_point_once_and_then_none() {
    let small = || {
        Space::new([
            Parameter::ordinal("a", [1, 2, 3]).unwrap(),
            Parameter::nominal("b", ["x", "y"]).unwrap(),
            Parameter::nominal("c", ["only"]).unwrap(),
        ])
        .unwrap()
    };
    fn all<M: Method>(space: Space, method: M) {
        let mut search = Search::new(space, method, 2);
        let mut seen = HashSet::new();
        for number in 0..6 {
            let Ask::Trial(trial) = search.ask() else { panic!("{:?} ended at {number}", search.method()) };
            assert!(seen.insert(trial.point.clone()), "{:?}", search.method());
            search.tell(trial.id, number as f64).unwrap();
        }
        assert_eq!(search.ask(), Ask::Exhausted);
        assert_eq!(search.best().map(|(trial, score)| (trial.id, score)), Some((5, 5.0)));
    }
    all(small(), Random);
    all(small(), Balanced);
    all(small(), Grid);
    all(small(), Tpe::new().with_startup(2));
    methods().into_iter().for_each(|method| all(small(), method));
    all(small(), CrossEntropy::paper(4, 0.25, 1.0).unwrap());
}

#[test]
fn failures_are_worse_than_any_score() {
    let mut search = Search::new(space(), CrossEntropy::paper(4, 0.5, 1.0).unwrap(), 2);
    let mut points = Vec::new();
    for score in [f64::NAN, -1e300, f64::NAN, f64::NEG_INFINITY] {
        let Ask::Trial(trial) = search.ask() else { panic!("exhausted") };
        assert!(search.best().is_none_or(|(best, _)| best.id == 1));
        search.tell(trial.id, score).unwrap();
        points.push(trial.point);
    }
    let rows = search.method().distribution(search.history());
    for (index, row) in rows.iter().enumerate() {
        let at = |trial: usize| points[trial].indices()[index] as usize;
        let want = if at(1) == at(3) { 1.0 } else { 0.5 };
        assert_eq!((row[at(1)], row[at(3)]), (want, want), "{row:?}");
    }
    let error = search.tell(1, 0.0).unwrap_err();
    assert_eq!(error.to_string(), "id: the score of trial 1 was told before");
    assert_eq!(search.tell(4, 0.0).unwrap_err().to_string(), "id: expected below 4, got 4");
}

#[test]
fn failures_count_among_the_rest() {
    let method = TreeCrossEntropy::recommended().with_round(2).unwrap().with_startup(10);
    let run = |failed: f64| {
        let mut search = Search::new(space(), method, 3);
        let mut asked = Vec::new();
        for number in 0..40 {
            let Ask::Trial(trial) = search.ask() else { panic!("exhausted") };
            asked.push(words(search.space(), &trial));
            let score = score(search.space(), &trial.point);
            search.tell(trial.id, if number % 5 == 0 { failed } else { score }).unwrap();
        }
        asked
    };
    assert_eq!(run(f64::NAN), run(-1e300));
    assert_ne!(run(f64::NAN), run(1e300));
}

/// Two values that are good only together: rows that are independent of each other can't say so.
#[test]
fn trees_and_kernels_learn_what_is_good_only_together() {
    let pair = || {
        Space::new([
            Parameter::nominal("one", ["x", "y"]).unwrap(),
            Parameter::ordinal("size", [1, 2, 3, 4, 5, 6, 7, 8]).unwrap(),
            Parameter::nominal("other", ["x", "y"]).unwrap(),
            Parameter::ordinal("rate", [1, 2, 3, 4, 5, 6, 7, 8]).unwrap(),
        ])
        .unwrap()
    };
    let different = |point: &Point| point.indices()[0] != point.indices()[2];
    // All else is without a meaning, but there are no ties.
    let score = |point: &Point| {
        f64::from(different(point)) + 0.1 * f64::from(hash_words(point.indices())) / f64::from(u32::MAX)
    };
    let method = TreeCrossEntropy::recommended().with_round(20).unwrap();
    let (mut independent, mut drawn) = (Vec::new(), Vec::new());
    for seed in 0..40 {
        let mut random = Search::new(pair(), Random, seed);
        let mut trials = Vec::new();
        for _ in 0..100 {
            let Ask::Trial(trial) = random.ask() else { panic!("exhausted") };
            let score = score(&trial.point);
            trials.push((trial, Some(score)));
        }
        let mut search = Search::new(pair(), method, seed).resumed(trials).unwrap();
        assert!(method.dependences(search.history()).contains(&(0, 2)), "{seed}");
        // What would come of the same values if they were independent of each other.
        let rows = method.distribution(search.history());
        independent.push(rows[0][0] * rows[2][1] + rows[0][1] * rows[2][0]);
        let mut different_ones = 0;
        for _ in 0..20 {
            let Ask::Trial(trial) = search.ask() else { panic!("exhausted") };
            different_ones += u32::from(different(&trial.point));
        }
        drawn.push(f64::from(different_ones) / 20.0);
    }
    let [independent, drawn] = [independent, drawn].map(|parts| mean_and_error(&parts));
    assert!(independent.0 + 5.0 * independent.1 < 0.6, "{independent:?}");
    assert!(drawn.0 - 5.0 * drawn.1 > 0.6, "{drawn:?}");
}

#[test]
fn balanced_points_have_each_value_equally_often() {
    let mut search = Search::new(space(), Balanced, 7);
    trace(&mut search, 60);
    for (index, parameter) in search.space().parameters().iter().enumerate() {
        let count = parameter.values().len();
        let mut often = vec![0; count];
        for trial in search.history().trials() {
            often[trial.point.indices()[index] as usize] += 1;
        }
        // A point from before gives way to any other, which is rare in so many points.
        let even = 60 / count;
        assert!(often.iter().all(|&times: &usize| times.abs_diff(even) <= 2), "{often:?}");
    }
}

/// By scores that say nothing rows concentrate by chance, as the formula says: within three
/// standard errors.
#[test]
fn rows_drift_by_chance_as_fast_as_the_null_says() {
    let wide = || {
        let values = ["a", "b", "c", "d"];
        // So many parameters that no point comes twice, which would be drawn anew.
        Space::new((0..24).map(|index| Parameter::nominal(&format!("p{index}"), values).unwrap())).unwrap()
    };
    for (round, rho, alpha, rounds) in [(10, 0.3, 0.7, 6), (8, 0.5, 0.4, 10), (12, 0.25, 1.0, 3)] {
        let method = CrossEntropy::paper(round, rho, alpha).unwrap();
        let (mut found, mut want) = (Vec::new(), 0.0);
        for seed in 0..40 {
            let mut search = Search::new(wide(), method, seed);
            for _ in 0..round * rounds {
                let Ask::Trial(trial) = search.ask() else { panic!("exhausted") };
                // Of no meaning, but no tie either.
                search.tell(trial.id, f64::from(hash_words(&[trial.id as u32, seed as u32]))).unwrap();
            }
            let rows = method.concentration(search.history()).unwrap();
            // Parameters are independent of each other, seeds are.
            found.push(rows.iter().map(|(h, _)| h).sum::<f64>() / rows.len() as f64);
            want = rows[0].1;
        }
        let (mean, error) = mean_and_error(&found);
        assert!((mean - want).abs() < 3.0 * error, "{mean} ± {error}, expected {want}");
        let elite = (rho * round as f64).ceil();
        assert!((want - 0.75 * (1.0 - alpha * alpha / elite).powi(rounds as i32)).abs() < 1e-12);
    }
    assert!(CrossEntropy::elite_of_all().concentration(Search::new(wide(), Random, 0).history()).is_none());
}

/// The mean regret of many seeds, with its standard error.
fn regret<M: Method + Clone>(method: &M, trials: usize) -> (f64, f64) {
    let regrets: Vec<f64> = (0..60)
        .map(|seed| {
            let mut search = Search::new(space(), method.clone(), seed);
            trace(&mut search, trials);
            -search.best().unwrap().1
        })
        .collect();
    mean_and_error(&regrets)
}

fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    (mean, (variance / count).sqrt())
}

#[test]
fn it_finds_better_points_than_random_search() {
    let (random, error) = regret(&Random, 72);
    let (found, its_error) = regret(&Tpe::new(), 72);
    assert!(
        found + 3.0 * (error + its_error) < random,
        "TPE: {found} ± {its_error}, random {random} ± {error}"
    );
    for method in methods() {
        let (found, its_error) = regret(&method, 72);
        assert!(
            found + 3.0 * (error + its_error) < random,
            "{method:?}: {found} ± {its_error}, random {random} ± {error}"
        );
    }
}

#[test]
fn refusals_name_the_argument() {
    let name = |refused: crate::Result<CrossEntropy>| refused.unwrap_err().argument().unwrap().to_owned();
    assert_eq!(name(CrossEntropy::paper(0, 0.1, 0.5)), "round");
    assert_eq!(name(CrossEntropy::paper(4, 0.0, 0.5)), "rho");
    assert_eq!(name(CrossEntropy::paper(4, 0.1, f64::NAN)), "alpha");
    let ce = CrossEntropy::elite_of_all();
    assert_eq!(name(ce.with_elite(Elite::OfAll(0))), "elite");
    assert_eq!(name(ce.with_elite(Elite::OfRound(1.5))), "elite");
    assert_eq!(name(ce.with_floor(-0.1)), "floor");
    assert_eq!(name(ce.with_neighbours(1.1)), "part");
    let name = |refused: crate::Result<TreeCrossEntropy>| refused.unwrap_err().argument().unwrap().to_owned();
    let tree = TreeCrossEntropy::recommended();
    assert_eq!(name(tree.with_round(0)), "round");
    assert_eq!(name(tree.with_candidates(0)), "candidates");
    let search = || Search::new(space(), Random, 0);
    assert_eq!(search().with_fidelity(0.0).unwrap_err().argument(), Some("fidelity"));
    let mut one = search().with_fidelity(0.125).unwrap();
    let Ask::Trial(trial) = one.ask() else { panic!("exhausted") };
    assert_eq!(trial.fidelity, 0.125);
    let renumbered = Trial { id: 1, ..trial.clone() };
    let of_another = Trial { point: Point(vec![0]), ..trial.clone() };
    let twice = [trial.clone(), renumbered.clone()];
    for (trials, reason) in [
        (vec![renumbered], "expected trial 0, got 1"),
        (vec![of_another], "trial 0: its point is of another space"),
        (twice.to_vec(), "trial 1: its point was there before"),
    ] {
        let error = search().resumed(trials.into_iter().map(|trial| (trial, None))).unwrap_err();
        assert_eq!(error.to_string(), format!("trials: {reason}"));
    }
    let mut rng = SmallRng::seed_from_u64(3);
    let id = rng.random_range(5..100);
    assert_eq!(search().tell(id, 0.0).unwrap_err().argument(), Some("id"));
}
