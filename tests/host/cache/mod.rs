//! The staircase cache on the host: codes, ladders, layouts, files, and the oracle over them. No
//! GPU.

mod files;
mod losses;
mod rotated;

use half::f16;
use prflash::Shape;
use prflash::cache::SequenceId;
use prflash::cache::quantize::{Extremes, WIDTHS, is_finite, levels, nests, step_down};
use prflash::cache::{Codec, HostCache, Ladder, PackLayout, Row, Side, Staircase, StoredKeys};
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use testkit::staircases::{ladder, rotated_staircases, short, staircases, unrotated_if_possible};

fn rounded(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

fn value(half: u16) -> f64 {
    f16::from_bits(half).into()
}

fn noise(rng: &mut SmallRng, count: usize) -> Vec<f32> {
    (0..count).map(|_| rng.random_range(-4.0..4.0)).collect()
}

/// Groups of 32 f16 numbers: any bits, subnormal, constant, extremes among small ones, far from
/// zero, one-sided, in one binade.
fn groups(rng: &mut SmallRng, count: usize) -> Vec<Vec<u16>> {
    let any = |rng: &mut SmallRng| loop {
        let half: u16 = rng.random();
        if is_finite(half) {
            return half;
        }
    };
    let group = |kind: usize| -> Vec<u16> {
        let constant = any(rng);
        let sign = constant & 0x8000;
        let mut group: Vec<u16> = (0..32)
            .map(|_| match kind % 8 {
                0 => any(rng),
                1 => rng.random::<u16>() & 0x83ff,
                2 => constant,
                3 => any(rng) & 0xbbff,
                4 => sign | (0x7b00 + (rng.random::<u16>() & 0xff)),
                5 => any(rng) & 0x7fff,
                6 => sign | (constant & 0x7c00) | (rng.random::<u16>() & 0x3ff),
                _ => f16::from_f32(rng.random_range(-3.0..3.0)).to_bits(),
            })
            .collect();
        if kind % 8 == 3 {
            (group[3], group[5]) = (0x7bff, 0xfbff);
        }
        group
    };
    (0..count).map(group).collect()
}

/// Over 1.2 million values: a code is that of exact arithmetic (but for values within 2⁻²² of a
/// threshold), its error is within the bound, and stepping down along any nested ladder gives the
/// codes of quantizing the original; wrong ways to step down don't.
#[test]
fn codes_are_exact_and_path_independent() {
    let mut rng = SmallRng::seed_from_u64(1);
    let (mut values, mut moved) = (0u32, 0u32);
    let mut mutants = [0u32; 3];
    for group in groups(&mut rng, 40_000) {
        let extremes = Extremes::of(group.iter().copied());
        let (least, most) = group
            .iter()
            .fold((f64::MAX, f64::MIN), |(least, most), &x| (value(x).min(least), value(x).max(most)));
        assert_eq!((value(extremes.min), value(extremes.max)), (least, most));
        let scaled = extremes.scaled();
        assert!(scaled.range < 1 << 22);
        let units = |x: f64| (x * f64::from(1 << 24)) as i128;
        let range = units(most - least);
        for &x in &group {
            values += 1;
            let t = units(value(x) - least);
            let mut code = [0; 9];
            for bits in WIDTHS {
                let n = i128::from(levels(bits));
                code[bits as usize] = scaled.code(x, bits);
                let got = code[bits as usize];
                let exact = if range == 0 { 0 } else { (2 * t * n + range) / (2 * range) };
                if i128::from(got) != exact {
                    // Halfway between opposite extremes is a threshold, near which anything small
                    // lies.
                    moved += u32::from(extremes.min != extremes.max ^ 0x8000);
                    let threshold = (2 * exact.max(got.into()) - 1) * range;
                    assert!(
                        (2 * t * n - threshold).abs() * (1 << 22) <= 2 * n * range,
                        "{x:#x} of {extremes:?}"
                    );
                }
                let error = (extremes.exact(got, bits) - value(x)).abs();
                let bound = (0.5 / n as f64 + 2f64.powi(-22)) * extremes.range();
                assert!(error <= bound, "{x:#x} at {bits} bits in {extremes:?}: {error:e} > {bound:e}");
            }
            for path in [&[8, 4][..], &[8, 2], &[4, 2], &[8, 4, 2]] {
                let first = code[path[0] as usize];
                let last = path.windows(2).fold(first, |code, step| step_down(code, step[0], step[1]));
                assert_eq!(
                    last,
                    code[path[path.len() - 1] as usize],
                    "{x:#x} of {extremes:?} along {path:?}"
                );
            }
            mutants[0] += u32::from(code[8] / 17 != code[4]);
            mutants[1] += u32::from((2 * code[8] + 15) / 34 != code[4]);
            mutants[2] += u32::from(code[8] >> 4 != code[4]);
        }
    }
    assert!(values > 1_000_000 && moved < values / 1000, "{moved} of {values} codes are off");
    assert!(mutants.iter().all(|&different| different > 0), "{mutants:?}");
}

#[test]
fn constant_groups_are_exact() {
    let shape = Shape::new(1, 1, 0, 32).unwrap();
    let mut cache =
        HostCache::new(short(Staircase::kivi(2).unwrap()), &shape, StoredKeys::AfterRotation).unwrap();
    let id = cache.add();
    for x in [0.0, -65504.0, 65504.0, 5.9604645e-8, -0.1] {
        let rows = [x; 32 * 32];
        cache.append(id, &rows, &rows).unwrap();
    }
    for (token, Row { key, value, .. }) in cache.rows(id, 0).unwrap().enumerate() {
        let x = rounded([0.0, -65504.0, 65504.0, 5.9604645e-8, -0.1][token / 32]);
        assert!(key.iter().chain(&value).all(|&y| y == x), "token {token}: {key:?}");
    }
}

/// What a sequence should hold, kept as plainly as possible.
#[derive(Clone, Default)]
struct Model {
    /// One head, 4 channels, rounded to f16.
    keys: Vec<[f32; 4]>,
    /// A number that tells the token: a constant row is exact at any width.
    tags: Vec<f32>,
    /// The most segments that ever had to leave the residual.
    left: usize,
}

impl Model {
    fn check(&self, staircase: &Staircase, cache: &HostCache, id: SequenceId, seed: u64) {
        let (len, segment) = (self.keys.len(), staircase.segment());
        let rung = |side: Side, token: usize| {
            let mut age = self.left.checked_sub(token / segment + 1)?;
            let rungs = staircase.ladder(side).rungs();
            rungs.iter().position(|rung| match rung.segments {
                Some(dwell) if age >= dwell => {
                    age -= dwell;
                    false
                }
                _ => true,
            })
        };
        let bits = |side, token| match rung(side, token) {
            Some(rung) if token >= staircase.sinks() => staircase.ladder(side).rungs()[rung].bits,
            _ => 16,
        };
        let standing = cache.standing(id).unwrap();
        assert_eq!((standing.len(), standing.segments()), (len, self.left), "seed {seed}");
        let bounds = staircase.ladder(Side::Keys).error_bounds();
        let mut rows = cache.rows(id, 0).unwrap();
        for token in (0..len).filter(|&token| bits(Side::Keys, token) > 0) {
            let row = rows.next().unwrap();
            assert_eq!(row.token, token, "seed {seed}");
            assert!(row.value.iter().all(|&x| x == self.tags[token]), "seed {seed}: {row:?}");
            for side in Side::ALL {
                assert_eq!(standing.bits(side, token), bits(side, token), "seed {seed}");
            }
            for (channel, &x) in row.key.iter().enumerate() {
                let was = self.keys[token][channel];
                let Some(rung) = rung(Side::Keys, token).filter(|_| bits(Side::Keys, token) < 16) else {
                    assert_eq!(x, was, "seed {seed}");
                    continue;
                };
                let group = &self.keys[token / 32 * 32..][..32];
                let least = group.iter().map(|row| row[channel]).fold(f32::MAX, f32::min);
                let most = group.iter().map(|row| row[channel]).fold(f32::MIN, f32::max);
                let bound = (most - least) * (bounds[rung] as f32 + 1e-6) + 1e-6;
                assert!((x - was).abs() <= bound, "seed {seed}, token {token}: {x} for {was}");
            }
        }
        assert!(rows.next().is_none(), "seed {seed}");
    }
}

/// What blocks of whole groups read is together what all tokens read.
#[test]
fn bytes_of_blocks_add_up() {
    let shape = Shape::new(6, 3, 0, 40).unwrap().with_value_dim(72).unwrap();
    for staircase in staircases() {
        for len in [0, 1, 31, 32, 64, 97, 300, 1000] {
            let standing = staircase.standing(len);
            // What all tokens of a segment share is read with each of its blocks.
            let size = if staircase.codec() != Codec::MinMax { staircase.segment() } else { 32 };
            let block = |first: usize| standing.bytes_read_in(&shape, first..first + size);
            let blocks: u64 = (0..len).step_by(size).map(block).sum();
            assert_eq!(blocks, standing.bytes_read(&shape), "{len} tokens of {staircase}");
            assert_eq!(standing.bytes_read_in(&shape, len..len + 9), 0);
        }
    }
}

#[test]
fn every_token_once_and_in_order_under_random_use() {
    let shape = Shape::new(1, 1, 0, 4).unwrap();
    let staircases = staircases();
    for seed in 0..10_000 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let residual = [1, 20, 32, 50, 64][rng.random_range(0..5)];
        let staircase =
            &staircases[seed as usize % staircases.len()].clone().with_residual(residual).unwrap();
        let mut cache = HostCache::new(staircase.clone(), &shape, unrotated_if_possible(staircase)).unwrap();
        let mut models: Vec<(SequenceId, Model)> = Vec::new();
        for _ in 0..rng.random_range(3..12) {
            if models.is_empty() || rng.random_range(0..8) == 0 {
                models.push((cache.add(), Model::default()));
            }
            let index = rng.random_range(0..models.len());
            let (id, model) = &mut models[index];
            match rng.random_range(0..10) {
                0..=5 => {
                    let tokens = [1, 2, 31, 32, 33, 70][rng.random_range(0..6)];
                    let keys = noise(&mut rng, 4 * tokens);
                    let tags: Vec<f32> = (0..tokens).map(|_| rng.random_range(0..2048) as f32).collect();
                    let values: Vec<f32> = tags.iter().flat_map(|&tag| [tag; 4]).collect();
                    cache.append(*id, &keys, &values).unwrap();
                    model.keys.extend(keys.chunks_exact(4).map(|k| [0, 1, 2, 3].map(|c| rounded(k[c]))));
                    model.tags.extend(tags);
                    let due = model.keys.len().saturating_sub(residual) / 32;
                    model.left = model.left.max(due);
                }
                6 | 7 => {
                    let len = model.keys.len();
                    let to = len.saturating_sub(rng.random_range(0..80));
                    let possible = to >= model.left * 32;
                    // What was promised can be forgotten, unless it was already.
                    assert!(possible || len - to > residual || len < model.left * 32 + residual);
                    match cache.truncate(*id, to) {
                        Ok(()) => {
                            assert!(possible, "seed {seed}");
                            model.keys.truncate(to);
                            model.tags.truncate(to);
                        }
                        Err(error) => {
                            assert!(!possible && error.argument() == Some("len"), "seed {seed}: {error}");
                        }
                    }
                }
                8 => {
                    let bytes = cache.save(*id).unwrap();
                    let opened = HostCache::open(&bytes).unwrap();
                    assert_eq!(opened.staircase(), staircase);
                    model.check(staircase, &opened, SequenceId::FIRST, seed);
                    let copy = cache.restore(&bytes).unwrap();
                    cache.remove(*id).unwrap();
                    *id = copy;
                }
                _ => {
                    cache.remove(*id).unwrap();
                    models.swap_remove(index);
                }
            }
            let sum: u64 =
                models.iter().map(|(id, _)| cache.standing(*id).unwrap().memory(&shape).total()).sum();
            assert_eq!(cache.live_bytes(), sum, "seed {seed}");
            let mut ids: Vec<SequenceId> = models.iter().map(|(id, _)| *id).collect();
            ids.sort_unstable();
            assert_eq!(cache.sequences().collect::<Vec<_>>(), ids, "seed {seed}");
        }
        models.iter().for_each(|(id, model)| model.check(staircase, &cache, *id, seed));
    }
}

/// The same tokens in chunks of any size leave the same words, also where ladders don't nest and
/// channels are padded.
#[test]
fn prefill_is_decode() {
    let (tokens, heads) = (500, 2);
    let shape = Shape::new(4, heads, 0, 80).unwrap().with_value_dim(36).unwrap();
    let mut rng = SmallRng::seed_from_u64(3);
    let (k, v) = (noise(&mut rng, heads * tokens * 80), noise(&mut rng, heads * tokens * 36));
    let part = |rows: &[f32], dim: usize, from: usize, to: usize| -> Vec<f32> {
        rows.chunks_exact(tokens * dim).flat_map(|head| head[from * dim..to * dim].to_vec()).collect()
    };
    for staircase in staircases().into_iter().chain(rotated_staircases()) {
        let fill = |chunk: usize| {
            let mut cache = HostCache::new(staircase.clone(), &shape, StoredKeys::AfterRotation).unwrap();
            let id = cache.add();
            for from in (0..tokens).step_by(chunk) {
                let to = (from + chunk).min(tokens);
                cache.append(id, &part(&k, 80, from, to), &part(&v, 36, from, to)).unwrap();
            }
            assert_eq!(cache.live_bytes(), staircase.standing(tokens).memory(&shape).total());
            cache
        };
        let whole = fill(tokens);
        for chunk in [1, 7, 32, 129] {
            assert!(
                fill(chunk).save(SequenceId::FIRST).unwrap() == whole.save(SequenceId::FIRST).unwrap(),
                "{staircase}\nin chunks of {chunk}"
            );
        }
        // Both heads are there, in order.
        for head in 0..heads {
            let last = whole.rows(SequenceId::FIRST, head).unwrap().last().unwrap();
            let at = ((head + 1) * tokens - 1) * 80;
            assert_eq!(last.key, k[at..at + 80].iter().map(|&x| rounded(x)).collect::<Vec<_>>());
        }
    }
}

/// One width below the residual is KIVI: written out again in f64 from the paper's formulas.
#[test]
fn a_ladder_of_one_rung_is_kivi() {
    let (tokens, dim) = (300, 80);
    let shape = Shape::new(1, 1, 0, dim).unwrap();
    let mut rng = SmallRng::seed_from_u64(4);
    let (k, v) = (noise(&mut rng, tokens * dim), noise(&mut rng, tokens * dim));
    for bits in WIDTHS {
        let staircase = short(Staircase::kivi(bits).unwrap());
        let mut cache = HostCache::new(staircase, &shape, StoredKeys::AfterRotation).unwrap();
        let id = cache.add();
        cache.append(id, &k, &v).unwrap();
        let quantized = cache.standing(id).unwrap().residual().start;
        assert_eq!(quantized, 256);
        let n = f64::from(levels(bits));
        let near = |x: f32, group: Vec<f32>, got: f32| {
            let x = f64::from(rounded(x));
            let (least, most) = group.iter().fold((f64::MAX, f64::MIN), |(least, most), &x| {
                (f64::from(rounded(x)).min(least), f64::from(rounded(x)).max(most))
            });
            let y = (x - least) / (most - least) * n;
            let tie = (y - y.floor() - 0.5).abs() < 1e-5;
            let want = least + y.round() * (most - least) / n;
            assert!(tie || (f64::from(got) - want).abs() < 1e-5, "{got} for {x}, expected {want}");
        };
        for row in cache.rows(id, 0).unwrap().take(quantized) {
            let t = row.token;
            for c in 0..dim {
                near(k[t * dim + c], (t / 32 * 32..).take(32).map(|t| k[t * dim + c]).collect(), row.key[c]);
                let channels = (c / 32 * 32)..(c / 32 * 32 + 32).min(dim);
                near(v[t * dim + c], channels.map(|c| v[t * dim + c]).collect(), row.value[c]);
            }
        }
    }
}

/// The documented places of codes and extremes, read again word by word.
#[test]
fn blocks_lie_where_the_layout_says() {
    let (tokens, dim) = (160, 48);
    let shape = Shape::new(1, 1, 0, dim).unwrap();
    let mut rng = SmallRng::seed_from_u64(5);
    let (k, v) = (noise(&mut rng, tokens * dim), noise(&mut rng, tokens * dim));
    let rungs = ladder(&[(8, 1), (4, 1), (3, 1)], 2);
    let staircase = short(Staircase::new(rungs.clone(), rungs).unwrap());
    let mut cache = HostCache::new(staircase.clone(), &shape, StoredKeys::AfterRotation).unwrap();
    let id = cache.add();
    cache.append(id, &k, &v).unwrap();
    for (segment, bits) in [(3, 8), (2, 4), (1, 3), (0, 2)] {
        for side in Side::ALL {
            let layout = PackLayout::new(&staircase, side, bits, dim).unwrap();
            let words = cache.pack(id, side, 0, segment).unwrap().unwrap();
            assert_eq!((words.len(), layout.code_words()), (layout.words(), 64 * bits as usize));
            for row in cache.rows(id, 0).unwrap().filter(|row| row.token / 32 == segment && row.token > 3) {
                let (got, t) = ([row.key, row.value], row.token % 32);
                for (c, &got) in got[side as usize].iter().enumerate() {
                    let i = if side == Side::Keys { c * 32 + t } else { t * 64 + c };
                    assert_eq!(layout.index(t, c), i);
                    let bit = |at: usize| words[at / 32] >> (at % 32) & 1;
                    let code = (0..bits).map(|b| bit((bits as usize) * i + b as usize) << b).sum();
                    let extremes = Extremes::from_word(words[64 * bits as usize + i / 32]);
                    assert_eq!(extremes.value(code, bits), got);
                }
            }
        }
    }
    assert_eq!(cache.pack(id, Side::Keys, 0, 4).unwrap(), None);
    let refused = |bits, dim| PackLayout::new(&staircase, Side::Keys, bits, dim).unwrap_err().argument();
    assert_eq!((refused(5, 64), refused(8, 0)), (Some("bits"), Some("dim")));
}

// The checksums of the files, computed by an independent Python program from the definitions in the
// docs.

proptest! {
    #[test]
    fn bits_fall_with_age(
        keys in prop::collection::vec(0usize..5, 0..5),
        values in prop::collection::vec(0usize..5, 0..5),
        len in 0usize..3000,
        residual in 1usize..300,
    ) {
        let ladder = |dwells: &[usize]| {
            let steps: Vec<(u32, usize)> =
                [16, 8, 4, 3].into_iter().zip(dwells.iter().copied()).filter(|step| step.1 > 0).collect();
            Ladder::new(&steps, 2).unwrap()
        };
        let staircase = Staircase::new(ladder(&keys), ladder(&values)).unwrap();
        let staircase = short(staircase).with_residual(residual).unwrap();
        let standing = staircase.standing(len);
        for side in Side::ALL {
            let bits: Vec<u32> = (0..len).map(|token| standing.bits(side, token)).collect();
            prop_assert!(bits.iter().skip(4).is_sorted());
            prop_assert!(bits.iter().take(4).all(|&bits| bits == 16));
            prop_assert_eq!(standing.tokens_by_rung(side).iter().sum::<usize>() + standing.residual().len(), len);
            let rungs = staircase.ladder(side).rungs();
            let direct = rungs.windows(2).all(|pair| nests(pair[0].bits, pair[1].bits));
            prop_assert_eq!(staircase.ladder(side).is_nested(), direct);
        }
        let plain = Staircase::plain().standing(len).memory(&Shape::new(1, 1, 0, 64).unwrap()).total();
        prop_assert_eq!(plain, 256 * len as u64);
    }
}

#[test]
fn plans_fit_their_budget() {
    let (len, shape) = (2000, Shape::new(2, 2, 0, 32).unwrap());
    let template = short(Staircase::recommended());
    let plain = Staircase::plain().standing(len).memory(&shape).total();
    let mut least = f64::INFINITY;
    for percent in [25, 35, 50, 100, 110] {
        let budget = plain * percent / 100;
        let fits = template.fitting(budget, len, &shape);
        assert!(fits.is_sorted_by(|a, b| a.loss <= b.loss));
        for fit in &fits {
            assert!(fit.bytes <= budget && fit.staircase.is_nested(), "{}", fit.staircase);
            assert_eq!(fit.bytes, fit.staircase.standing(len).memory(&shape).total());
        }
        // More memory, less loss.
        assert!(fits[0].loss <= least);
        least = fits[0].loss;
        let mut cache = HostCache::new(fits[0].staircase.clone(), &shape, StoredKeys::AfterRotation).unwrap();
        let id = cache.add();
        let rows = noise(&mut SmallRng::seed_from_u64(8), 2 * len * 32);
        cache.append(id, &rows, &rows).unwrap();
        assert_eq!(cache.live_bytes(), fits[0].bytes);
    }
    assert_eq!(least, 0.0, "the whole cache in f16 fits");
    assert!(template.fitting(1000, len, &shape).is_empty());
    assert!(!template.fitting(0, 0, &shape).is_empty());
}
