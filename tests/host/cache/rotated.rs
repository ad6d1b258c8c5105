//! Rotated codes: what their words stand for, that any way of using a cache ends at the same ones,
//! and what is refused.

use super::noise;
use half::f16;
use prflash::Shape;
use prflash::cache::quantize::is_finite;
use prflash::cache::rotated::{error_bound, mean_squared_error};
use prflash::cache::{Codec, HostCache, Ladder, PackLayout, SequenceId, Side, Staircase, StoredKeys};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use testkit::staircases::{ladder, rotated_staircases, short, staircases};

/// What a pack's words say, read once more from the documented layout.
struct Words<'a> {
    words: &'a [u32],
    side: Side,
    bits: usize,
    dim: usize,
    segment: usize,
}

impl Words<'_> {
    fn bits_at(&self, first: usize, count: usize) -> usize {
        (0..count).map(|b| ((self.words[(first + b) / 32] >> ((first + b) % 32) & 1) as usize) << b).sum()
    }

    fn width(&self) -> usize {
        self.dim.next_multiple_of(32)
    }

    fn code(&self, token: usize, channel: usize) -> usize {
        self.bits_at(self.bits * (token * self.width() + channel), self.bits)
    }

    fn behind(&self) -> usize {
        32 * (self.segment * self.width() / 32 * self.bits)
    }

    fn scale(&self, token: usize) -> usize {
        self.bits_at(self.behind() + 8 * token, 8)
    }

    fn mean(&self, channel: usize) -> f64 {
        if self.side == Side::Values {
            return 0.0;
        }
        let half = self.bits_at(self.behind() + 8 * self.segment + 16 * channel, 16);
        f16::from_bits(half as u16).into()
    }

    /// Fine tokens: each with the place of its codes.
    fn fine(&self, count: usize) -> Vec<(usize, usize)> {
        let means = if self.side == Side::Keys { 16 * self.width() } else { 0 };
        let list = self.behind() + 8 * self.segment + means;
        let codes = list + 32 * count.div_ceil(2);
        let place = |index: usize| (self.bits_at(list + 16 * index, 16), codes + 8 * index * self.width());
        (0..count).map(place).filter(|&(token, _)| token != 65_535).collect()
    }
}

/// What a scale stands for: `2^((scale + offset)/6 − 24)/√(D·P)`.
fn sigma(scale: usize, dim: usize) -> f64 {
    if scale == 0 {
        return 0.0;
    }
    let product = (dim << dim.trailing_zeros()) as f64;
    let offset = (3.0 * product.log2() - 1e-9).ceil() + 246.0 - 255.0;
    ((scale as f64 + offset) / 6.0 - 24.0).exp2() / product.sqrt()
}

/// A row times W/√P.
fn rotated(row: &[f64]) -> Vec<f64> {
    let block = 1 << row.len().trailing_zeros();
    let sign = |i: usize, j: usize| if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
    let of = |i: usize| {
        let first = i / block * block;
        (0..block).map(|j| sign(i % block, j) * row[first + j]).sum::<f64>() / (block as f64).sqrt()
    };
    (0..row.len()).map(of).collect()
}

/// The mean of the numbers that have a code at 8 bits, under the normal distribution: about the
/// middle of the cell that a rank of the code has. Only its order and rough size matter here.
fn cell(z: f64, bits: usize) -> usize {
    // Thresholds at 2 bits: those of Lloyd's quantizer.
    let quarter = match z {
        z if z < -0.9816 => 0,
        z if z < 0.0 => 1,
        z if z < 0.9816 => 2,
        _ => 3,
    };
    quarter << (bits - 2)
}

/// Codes, scales and means are what the docs say, by f64 and from the words alone; and rows lie
/// within the bound of their scale. Readers with one thing wrong each don't.
#[test]
fn packs_lie_where_the_layout_says() {
    let (tokens, segment) = (160, 32);
    for dim in [48, 64, 80] {
        let shape = Shape::new(1, 1, 0, dim).unwrap();
        let mut rng = SmallRng::seed_from_u64(5);
        let offsets = noise(&mut rng, dim);
        let mut k = noise(&mut rng, tokens * dim);
        k.iter_mut().enumerate().for_each(|(at, x)| *x += 3.0 * offsets[at % dim]);
        let mut v = noise(&mut rng, tokens * dim);
        // Of each segment one value is small, and its key far away.
        for t in (9..tokens).step_by(32) {
            k[t * dim..][..dim].iter_mut().for_each(|x| *x *= 5.0);
            v[t * dim..][..dim].iter_mut().for_each(|x| *x *= 0.01);
        }
        let rungs = ladder(&[(8, 1), (4, 1), (3, 1)], 2);
        let staircase = short(Staircase::new(rungs.clone(), rungs).unwrap());
        let staircase = staircase.with_codec(Codec::Rotated { fine_tokens: 1 }).unwrap().with_sinks(2);
        let mut cache = HostCache::new(staircase.clone(), &shape, StoredKeys::AfterRotation).unwrap();
        let id = cache.add();
        cache.append(id, &k, &v).unwrap();
        let rows: Vec<_> = cache.rows(id, 0).unwrap().collect();
        let mut mutants = [0_usize; 4];
        for (index, bits) in [(3, 8), (2, 4), (1, 3), (0, 2)] {
            for side in Side::ALL {
                let layout = PackLayout::new(&staircase, side, bits, dim).unwrap();
                let words = cache.pack(id, side, 0, index).unwrap().unwrap();
                assert_eq!(words.len(), layout.words());
                let bits = bits as usize;
                let words = Words { words, side, bits, dim, segment };
                let fine = words.fine(1);
                assert_eq!((fine.len(), fine[0].0), (1, 9), "{side:?}, segment {index}");
                let sinks = if index == 0 { 2 } else { 0 };
                for t in 0..segment {
                    let token = index * segment + t;
                    let x: Vec<f64> = [&k, &v][side as usize][token * dim..][..dim]
                        .iter()
                        .map(|&x| f16::from_f32(x).into())
                        .collect();
                    let row = &rows[token];
                    let got: Vec<f64> =
                        [&row.key, &row.value][side as usize].iter().map(|&x| x.into()).collect();
                    if t < sinks {
                        assert_eq!((words.scale(t), got), (0, x));
                        continue;
                    }
                    let sigma = sigma(words.scale(t), dim);
                    let mean: Vec<f64> = (0..dim).map(|c| words.mean(c)).collect();
                    let less =
                        |x: &[f64]| x.iter().zip(&mean).map(|(x, mean)| x - mean).collect::<Vec<f64>>();
                    let y = rotated(&less(&x));
                    let rms = (y.iter().map(|y| y * y).sum::<f64>() / dim as f64).sqrt();
                    assert!((sigma / rms).log2().abs() < 1.0 / 12.0 + 0.01, "{sigma} for {rms}");
                    let near = |z: f64| [-0.9816, 0.0, 0.9816].iter().any(|end| (z - end).abs() < 0.01);
                    for (c, y) in y.iter().enumerate().filter(|(_, y)| !near(*y / sigma)) {
                        let code = words.code(t, c);
                        assert_eq!(
                            code >> (bits - 2) << (bits - 2),
                            cell(y / sigma, bits),
                            "{side:?}, {t}, {c}"
                        );
                    }
                    let read_bits = if t == 9 { 8 } else { bits };
                    let bound = sigma * error_bound(read_bits as u32, dim) + 1e-3;
                    let far =
                        |row: &[f64]| row.iter().zip(&x).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
                    assert!(far(&got) <= bound, "{side:?}, {t}: {} > {bound}", far(&got));
                    // In rotated channels a row is levels, of which the widest has as many as
                    // codes.
                    let levels = rotated(&less(&got));
                    for (c, level) in levels.iter().enumerate() {
                        let (first, count) = match t == 9 {
                            true => (fine[0].1 + 8 * c, 8),
                            false => (bits * (t * words.width() + c), bits),
                        };
                        let code = words.bits_at(first, count) as f64 + 0.5;
                        // Levels have the order and the signs of codes.
                        let positive = code > (1 << (count - 1)) as f64;
                        assert!(*level == 0.0 || (*level > 0.0) == positive, "{side:?}, {t}, {c}");
                    }
                    let other = rotated(&x);
                    mutants[0] += usize::from(far(&other) > bound);
                    mutants[1] += usize::from(side == Side::Keys && far(&less(&got)) > bound);
                    let neighbour = rotated(&levels.iter().map(|y| 4.0 * y).collect::<Vec<_>>());
                    let neighbour: Vec<f64> = neighbour.iter().zip(&mean).map(|(x, m)| x + m).collect();
                    mutants[2] += usize::from(far(&neighbour) > bound);
                    let shifted =
                        rotated(&levels.iter().cycle().skip(1).take(dim).copied().collect::<Vec<_>>());
                    let shifted: Vec<f64> = shifted.iter().zip(&mean).map(|(x, m)| x + m).collect();
                    mutants[3] += usize::from(far(&shifted) > bound);
                }
            }
        }
        assert!(mutants.iter().all(|&caught| caught > 0), "{dim}: {mutants:?}");
    }
}

/// A sequence that was appended to, truncated, saved, restored, forked and shifted at random holds
/// what one append of the same tokens leaves (of more tokens, where segments left before their
/// time).
#[test]
fn random_use_leaves_what_one_append_does() {
    let (dim, all) = (12, rotated_staircases().into_iter().chain(staircases()).collect::<Vec<_>>());
    let shape = Shape::new(1, 1, 0, dim).unwrap();
    let mut drops = 0;
    for seed in 0..2000 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let residual = [1, 20, 32, 50, 64][rng.random_range(0..5)];
        let staircase = all[seed as usize % all.len()].clone().with_residual(residual).unwrap();
        let new = || HostCache::new(staircase.clone(), &shape, StoredKeys::AfterRotation).unwrap();
        let mut cache = new();
        let mut id = cache.add();
        let (mut keys, mut values, mut left) = (Vec::new(), Vec::new(), 0);
        for _ in 0..rng.random_range(3..12) {
            let len = keys.len() / dim;
            match rng.random_range(0..8) {
                0..=3 => {
                    let tokens = [1, 2, 31, 32, 33, 70][rng.random_range(0..6)];
                    let (k, v) = (noise(&mut rng, dim * tokens), noise(&mut rng, dim * tokens));
                    cache.append(id, &k, &v).unwrap();
                    keys.extend(k);
                    values.extend(v);
                    left = left.max((len + tokens).saturating_sub(residual) / 32);
                }
                4 | 7 if rng.random_bool(0.4) => {
                    // As many whole segments as there are beside those on rungs.
                    let before = cache.standing(id).unwrap().dropped();
                    let rungs = staircase.ladder(Side::Keys).rungs().iter();
                    let held = rungs.filter_map(|rung| rung.segments).sum::<usize>();
                    let gone = cache.standing(id).unwrap().segments().saturating_sub(held);
                    let most = (len / 32).saturating_sub(held + gone);
                    let segments = rng.random_range(0..3);
                    let dropped = cache.drop_oldest(id, segments);
                    assert_eq!(dropped.is_ok(), staircase.drops() && segments <= most, "seed {seed}");
                    if dropped.is_ok() && segments > 0 {
                        left = left.max(gone + segments + held);
                        let end = ((gone + segments) * 32).max(before.start);
                        assert_eq!(cache.standing(id).unwrap().dropped().end, end, "seed {seed}");
                        drops += 1;
                    }
                }
                5 | 6 => {
                    let to = len.saturating_sub(rng.random_range(0..80));
                    let possible = to >= left * 32;
                    assert_eq!(cache.truncate(id, to).is_ok(), possible, "seed {seed}");
                    if possible {
                        keys.truncate(to * dim);
                        values.truncate(to * dim);
                    }
                }
                _ => {
                    let bytes = cache.save(id).unwrap();
                    assert_eq!(HostCache::open(&bytes).unwrap().staircase(), &staircase);
                    let copy = cache.restore(&bytes).unwrap();
                    cache.remove(id).unwrap();
                    // And a fork of it, of which what comes to the other one says nothing.
                    id = cache.fork(copy, len).unwrap();
                    let more = noise(&mut rng, dim * 70);
                    cache.append(copy, &more, &more).unwrap();
                    assert!(cache.save(id).unwrap() == bytes, "seed {seed}");
                    cache.remove(copy).unwrap();
                }
            }
            let standing = cache.standing(id).unwrap();
            assert_eq!((standing.len(), standing.segments()), (keys.len() / dim, left), "seed {seed}");
            assert_eq!(cache.live_bytes(), standing.memory(&shape).total(), "seed {seed}");
        }
        // As many tokens as make the same segments leave, and then less of them.
        let mut once = new();
        let same = once.add();
        let len = keys.len() / dim;
        let more = (left * 32 + residual).max(len) * dim;
        let mut all = [keys.clone(), values.clone()];
        all.iter_mut().for_each(|rows| rows.resize(if left > 0 { more } else { len * dim }, 0.0));
        once.append(same, &all[0], &all[1]).unwrap();
        once.truncate(same, len).unwrap();
        assert!(once.save(same).unwrap() == cache.save(id).unwrap(), "seed {seed}: {staircase}");
        let rows: Vec<usize> = cache.rows(id, 0).unwrap().map(|row| row.token).collect();
        let dropped = cache.standing(id).unwrap().dropped();
        assert_eq!(rows, (0..len).filter(|token| !dropped.contains(token)).collect::<Vec<_>>());
    }
    assert!(drops > 5, "{drops} drops");
}

/// Any numbers that f16 has, from the least to the largest, are held within the bound.
#[test]
fn extreme_numbers_are_held() {
    let (dim, tokens) = (16, 64);
    let shape = Shape::new(1, 1, 0, dim).unwrap();
    let mut rng = SmallRng::seed_from_u64(11);
    for kind in 0..40 {
        let any = |rng: &mut SmallRng| loop {
            let half: u16 = rng.random();
            let half = match kind % 4 {
                0 => half,
                1 => half & 0x83ff,
                2 => half | 0x7800,
                _ => half & 0x8fff | 0x0400,
            };
            if is_finite(half) {
                return f16::from_bits(half).to_f32();
            }
        };
        let numbers: Vec<f32> = (0..dim * tokens).map(|_| any(&mut rng)).collect();
        for bits in [8, 4, 3, 2] {
            let staircase = short(Staircase::kivi(bits).unwrap().with_residual(1).unwrap());
            let staircase = staircase.with_codec(Codec::Rotated { fine_tokens: 0 }).unwrap();
            let mut cache = HostCache::new(staircase, &shape, StoredKeys::AfterRotation).unwrap();
            let id = cache.add();
            cache.append(id, &numbers, &numbers).unwrap();
            let most = numbers.iter().fold(0.0f64, |most, &x| most.max(f64::from(x).abs()));
            for row in cache.rows(id, 0).unwrap().take(32) {
                for (got, side) in [(&row.key, Side::Keys), (&row.value, Side::Values)] {
                    let x = &numbers[row.token * dim..][..dim];
                    let square = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
                    let off = square(&mut got.iter().zip(x).map(|(a, b)| f64::from(a - b)));
                    // A scale is at most a twelfth of an octave over the row's; of keys it may be
                    // twice the largest.
                    let rms = match side {
                        Side::Keys => 2.0 * most,
                        Side::Values => square(&mut x.iter().map(|&x| f64::from(x))) / (dim as f64).sqrt(),
                    };
                    let bound = 1.07 * rms * error_bound(bits, dim) + most * dim as f64 / f64::from(1 << 21);
                    assert!(off <= bound + 2f64.powi(-24), "{kind}, {side:?}, {bits}: {off} > {bound}");
                }
            }
        }
    }
}

#[test]
fn refusals_name_the_argument() {
    let rotated = |fine_tokens| Codec::Rotated { fine_tokens };
    let named = |staircase: prflash::Result<Staircase>| staircase.unwrap_err().argument().unwrap();
    let recommended = Staircase::recommended();
    assert_eq!(named(recommended.clone().with_codec(rotated(33))), "codec");
    assert_eq!(named(recommended.clone().with_codec(rotated(usize::MAX))), "codec");
    assert_eq!(named(recommended.clone().with_segment(2048).unwrap().with_codec(rotated(0))), "segment");
    assert_eq!(named(recommended.clone().with_codec(rotated(0)).unwrap().with_segment(1056)), "segment");
    assert_eq!(named(recommended.clone().with_codec(rotated(0)).unwrap().with_summaries(48)), "summaries");
    let late = Staircase::new(ladder(&[(16, 1)], 4), Ladder::new(&[], 4).unwrap()).unwrap();
    assert_eq!(named(late.clone().with_codec(rotated(1))), "codec");
    assert!(late.with_codec(rotated(0)).unwrap().is_nested());
    assert!(recommended.with_codec(rotated(2)).unwrap().to_string().contains("2 fine tokens a segment"));
    let errors = [16, 8, 4, 3, 2, 0].map(mean_squared_error);
    assert!(errors.is_sorted() && errors[0] == 0.0 && errors[5] == 1.0);
    assert!(error_bound(5, 64).is_infinite() && error_bound(2, 64) > error_bound(4, 64));
}

/// Values of 64 channels need no group that divides them, and plans rank rotated ladders too.
#[test]
fn groups_do_not_matter_and_plans_fit() {
    let shape = Shape::new(1, 1, 0, 64).unwrap();
    let wide = Staircase::recommended().with_group(128).unwrap();
    assert!(HostCache::new(wide.clone(), &shape, StoredKeys::AfterRotation).is_err());
    let wide = wide.with_codec(Codec::Rotated { fine_tokens: 2 }).unwrap();
    let mut cache = HostCache::new(wide.clone(), &shape, StoredKeys::AfterRotation).unwrap();
    let id = cache.add();
    let rows = noise(&mut SmallRng::seed_from_u64(12), 1000 * 64);
    cache.append(id, &rows, &rows).unwrap();
    assert_eq!(id, SequenceId::FIRST);
    let standing = wide.standing(1000);
    assert_eq!(cache.live_bytes(), standing.memory(&shape).total());
    // 6 segments left: of keys 2 are at 8 bits, and the rest at 4; of values 2 at 8.
    let beside = 6 * (2 * (128 + 2 * 64 + 4) + 2 * 64);
    let codes = 128 * 64 * (2 * 8 + 4 * 4 + 2 * 8 + 4 * 4) / 8;
    assert_eq!(standing.memory(&shape).total(), beside + codes + (232 + 4) * 64 * 4);
    // A decode step reads all but the codes and scales that copies of sinks replace.
    assert_eq!(standing.bytes_read(&shape), standing.memory(&shape).total() - 2 * 4 * (64 / 2 + 1));
    let fits = wide.fitting(standing.memory(&shape).total(), 1000, &shape);
    assert!(!fits.is_empty() && fits.iter().all(|fit| fit.staircase.codec() == wide.codec()));
    assert!(fits.is_sorted_by(|a, b| a.loss <= b.loss));
}
