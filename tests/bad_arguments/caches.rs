//! Ladders, staircases, codes, the cache in host memory against a simple model, and its files.

use half::f16;
use prflash::cache::quantize::{self, Extremes, Scaled};
use prflash::cache::rotated;
use prflash::cache::{
    Codec, HostCache, Ladder, LayerPlan, PackLayout, Sensitivity, SequenceId, Side, Staircase, StoredKeys,
    output_error_bound,
};
use prflash::limits::{MAX_ELEMENTS, MAX_LEN};
use prflash::position::{Pairing, Rope};
use prflash::sampling::content::{Estimate, Probe};
use prflash::{Attention, BlockGrid, Shape, Tables};

use super::runner::{Case, tell};
use super::sizes::{accepted, shape};

fn ladder(case: &mut Case) -> Option<Ladder> {
    let n = &mut case.numbers;
    let mut widths = [16, 8, 4, 3, 2, 0].to_vec();
    widths.retain(|_| n.bool());
    if n.once_in(8) {
        widths.push(n.u32());
    }
    let last = widths.pop().unwrap_or(0);
    let steps: Vec<(u32, usize)> = widths.into_iter().map(|bits| (bits, n.mild(3))).collect();
    tell!(case, "Ladder::new({steps:?}, {last})");
    accepted(Ladder::new(&steps, last))
}

/// Any staircase that isn't refused.
fn staircase(case: &mut Case) -> Option<Staircase> {
    let (keys, values) = (ladder(case)?, ladder(case)?);
    let n = &mut case.numbers;
    let [segment, group] = [(); 2].map(|()| if n.once_in(4) { n.size() } else { 32 * (1 + n.below(4)) });
    let (sinks, residual, steps, same) = (n.mild(9), n.mild(300), n.below(64), n.bool());
    let fine_tokens = if n.once_in(4) { n.size() } else { n.below(4) };
    let summarized = if n.once_in(4) { n.size() } else { 1 << n.below(9) };
    let values = if same { keys.clone() } else { values };
    tell!(case, "Staircase::new({keys}, {values})");
    let mut staircase = accepted(Staircase::new(keys, values))?;
    tell!(case, "segment {segment}, group {group}, {sinks} sinks, residual {residual}; {steps:b}");
    if steps & 1 != 0 {
        staircase = accepted(staircase.clone().with_segment_and_group(segment, group)).unwrap_or(staircase);
    }
    if steps & 2 != 0 {
        staircase = staircase.with_sinks(sinks);
    }
    if steps & 4 != 0 {
        staircase = accepted(staircase.clone().with_residual(residual)).unwrap_or(staircase);
    }
    if steps & 8 != 0 {
        staircase = accepted(staircase.clone().with_segment(segment)).unwrap_or(staircase);
        staircase = accepted(staircase.clone().with_group(group)).unwrap_or(staircase);
    }
    if steps & 16 != 0 {
        tell!(case, "summaries of {summarized}");
        staircase = accepted(staircase.clone().with_summaries(summarized)).unwrap_or(staircase);
    }
    if steps & 32 != 0 {
        tell!(case, "rotated, {fine_tokens} fine tokens");
        let rotated = staircase.clone().with_codec(Codec::Rotated { fine_tokens });
        staircase = accepted(rotated).unwrap_or(staircase);
    }
    accepted(Staircase::streaming(residual));
    accepted(Staircase::kivi(segment as u32));
    Some(staircase)
}

pub fn ladders(case: &mut Case) {
    let Some(ladder) = ladder(case) else { return };
    let n = &mut case.numbers;
    let (age, [a, b, c]) = (n.size(), [(); 3].map(|()| n.f64()));
    tell!(case, "rung_at({age}) of {ladder}; output_error_bound({a:?}, {b:?}, {c:?})");
    assert!(ladder.rung_at(age) < ladder.rungs().len());
    assert_eq!(ladder.error_bounds().len(), ladder.rungs().len());
    let _ = (ladder.is_nested(), ladder.last_bits(), output_error_bound(a, b, c));
}

pub fn layer_plans(case: &mut Case) {
    let (Some(narrow), Some(wide)) = (staircase(case), staircase(case)) else { return };
    // Most pairs differ in more than their ladders.
    let n = &mut case.numbers;
    let alike = Staircase::new(wide.ladder(Side::Keys).clone(), wide.ladder(Side::Values).clone())
        .and_then(|wide| {
            wide.with_segment_and_group(narrow.segment(), narrow.group())?
                .with_sinks(narrow.sinks())
                .with_residual(narrow.residual())?
                .with_codec(narrow.codec())
        })
        .unwrap_or(wide.clone());
    let wide = if n.once_in(4) { wide } else { alike };
    let layers = n.mild(40);
    let known: Vec<Sensitivity> = (0..n.below(20))
        .map(|_| Sensitivity {
            layer: if n.once_in(9) { n.size() } else { n.below(layers.clamp(1, 40)) },
            side: if n.bool() { Side::Keys } else { Side::Values },
            loss: if n.once_in(9) { n.f64() } else { n.below(5) as f64 },
        })
        .collect();
    let (count, tokens, bytes) = (n.mild(50), n.mild(9000), n.bits());
    tell!(
        case,
        "LayerPlan::new({narrow}, {wide}, {layers}), {known:?}, {count}, {tokens} tokens, {bytes} bytes"
    );
    let Some(plan) = accepted(LayerPlan::new(narrow, wide, layers)) else { return };
    let of = Shape::new(4, 2, 1, 64).unwrap();
    if let Some(plan) = accepted(plan.clone().with_most_sensitive(&known, count)) {
        assert!(plan.count() <= count.min(2 * layers) && plan.staircases().len() == layers);
    }
    if let Some(plan) = accepted(plan.within_bytes(&known, &of, tokens.min(MAX_LEN - 1), bytes)) {
        assert!(plan.bytes(&of, tokens.min(MAX_LEN - 1)) <= bytes);
    }
}

pub fn balances(case: &mut Case) {
    let n = &mut case.numbers;
    let (dim, segment) = (n.mild(20), n.mild(100));
    let mut keys: Vec<f32> = (0..n.below(90)).map(|_| n.below(9) as f32 - 4.0).collect();
    if n.once_in(4) && !keys.is_empty() {
        let at = n.below(keys.len());
        keys[at] = n.f64() as f32;
    }
    let rope = Rope::new(
        if n.bool() { dim } else { 8 },
        1e4,
        if n.bool() { Pairing::Half } else { Pairing::Interleaved },
    );
    tell!(case, "balance({keys:?}, {dim}, {segment}, {rope:?})");
    let Some(factors) = accepted(rotated::balance(&keys, dim, segment, rope.as_ref().ok())) else { return };
    assert!(factors.len() == dim && factors.iter().all(|factor| factor.is_finite() && *factor > 0.0));
}

pub fn standings(case: &mut Case) {
    let Some(staircase) = staircase(case) else { return };
    let shape = shape(case).unwrap_or(Shape::new(8, 2, 0, 64).unwrap());
    let n = &mut case.numbers;
    let ([len, token, segment, dim], bytes) = ([(); 4].map(|()| n.size()), n.u64());
    let bits = n.pick(&[0, 2, 3, 4, 8, 16, 5, u32::MAX]);
    tell!(case, "standing({len}), token {token}, segment {segment}");
    let standing = staircase.standing(len);
    assert!(standing.len() == len.min(MAX_LEN) && standing.is_empty() == (len == 0));
    assert!(standing.residual().end == standing.len() && standing.residual().start <= standing.len());
    let (residual, sinks, dropped) = (standing.residual(), standing.sinks(), standing.dropped());
    for side in Side::ALL {
        let inside = token < standing.len();
        let bits = standing.bits(side, token);
        assert!(inside || bits == 0);
        assert!(!(residual.contains(&token) || sinks.contains(&token)) || bits == 16);
        assert!(!dropped.contains(&token) || bits == 0);
        assert_eq!(standing.segment_rung(side, segment).is_some(), segment < standing.segments());
        let _ = standing.rung_of(side, token);
        let held: usize = standing.tokens_by_rung(side).iter().sum();
        assert_eq!(held + residual.len(), standing.len());
    }
    let stretches = standing.stretches();
    assert_eq!(stretches.iter().map(|(tokens, ..)| tokens.len()).sum::<usize>(), standing.len());
    let stretch = stretches.iter().find(|(tokens, ..)| tokens.contains(&token));
    assert_eq!(stretch.map_or(0, |&(_, keys, _)| keys), standing.bits(Side::Keys, token));
    tell!(case, "its memory for {shape:?}");
    let memory = standing.memory(&shape);
    assert!(memory.total() >= memory.residual + memory.sinks);
    let _ = (standing.bytes_read(&shape), standing.bits_per_element(&shape));
    tell!(case, "aging({segment}), on_append({len}), work({len}), {staircase}");
    let _ = (staircase.aging(segment), staircase.on_append(len), staircase.work(len));
    tell!(case, "PackLayout of {bits} bits, {dim} channels; index({token}, {segment})");
    for side in Side::ALL {
        let Some(layout) = accepted(PackLayout::new(&staircase, side, bits, dim)) else { continue };
        assert!(layout.words() <= MAX_ELEMENTS && layout.code_words() <= layout.words());
        let numbers = staircase.segment() * dim.next_multiple_of(32);
        assert!(layout.index(token, segment) < numbers || layout.index(token, segment) == usize::MAX);
    }
    if case.numbers.once_in(3) {
        tell!(case, "fitting({bytes}, {len})");
        let fits = staircase.fitting(bytes, len, &shape);
        assert!(fits.iter().all(|fit| fit.bytes <= bytes && fit.loss >= 0.0));
    }
}

pub fn codes(case: &mut Case) {
    let n = &mut case.numbers;
    let [min, max, half] = [(); 3].map(|()| n.bits() as u16);
    let [bits, to, code, word] = [(); 4].map(|()| n.u32());
    let forged = Scaled { shift: n.u32(), low: n.u32() as i32, range: n.u32() };
    tell!(case, "codes: {min:#x}, {max:#x}, {half:#x}; {bits} to {to} bits, {code}, {forged:?}");
    let group = Extremes { min, max };
    let _ = (group.scaled().code(half, bits), forged.code(half, bits), Extremes::of([min, max, half]));
    let _ = (group.value(code, bits), group.exact(code, bits), group.range(), Extremes::from_word(word));
    let _ = (rotated::error_bound(bits, code as usize), rotated::mean_squared_error(to));
    let _ = (quantize::step_down(code, bits, to), quantize::nests(bits, to), quantize::levels(bits));
    let finite = [min, max, half].into_iter().all(quantize::is_finite);
    let group = Extremes::of([min, max, half]);
    for bits in quantize::WIDTHS.into_iter().filter(|_| finite) {
        assert!(group.scaled().code(half, bits) <= quantize::levels(bits));
    }
}

/// A cache of everyday size, in host memory alone.
pub fn small_host_cache(case: &mut Case) -> (Staircase, Shape, StoredKeys) {
    let (staircase, shape, keys) = small_cache(case);
    let n = &mut case.numbers;
    let (rotate, fine_tokens) = (n.bool(), n.below(4));
    if !rotate {
        return (staircase, shape, keys);
    }
    let codec = Codec::Rotated { fine_tokens };
    tell!(case, "rotated: {fine_tokens} fine tokens");
    (accepted(staircase.clone().with_codec(codec)).unwrap_or(staircase), shape, keys)
}

/// A cache of everyday size.
pub fn small_cache(case: &mut Case) -> (Staircase, Shape, StoredKeys) {
    let n = &mut case.numbers;
    let (segment, group) = n.pick(&[(32, 32), (64, 32), (64, 64)]);
    let shape = n.pick(&[(1, 4, 4), (2, 32, 8), (1, 40, 32), (3, 8, 36)]);
    let keys = n.pick(&[StoredKeys::BeforeRotation, StoredKeys::AfterRotation]);
    let (residual, sinks, kind) = (1 + n.below(100), n.below(40), n.below(6));
    // Values of 64 channels are grouped by 64.
    let (heads, key_dim, value_dim) = if group == 64 { (1, 4, 64) } else { shape };
    let ladder = |steps: &[(u32, usize)], last| Ladder::new(steps, last).unwrap();
    let (k, v) = match kind {
        0 => (ladder(&[], 16), ladder(&[], 2)),
        1 => (ladder(&[(8, 1)], 4), ladder(&[(8, 1), (4, 2)], 2)),
        2 => (ladder(&[(16, 1), (8, 1), (3, 1)], 2), ladder(&[(4, 1)], 3)),
        3 => (ladder(&[], 0), ladder(&[], 0)),
        4 => (ladder(&[(8, 2)], 0), ladder(&[(4, 1), (2, 1)], 0)),
        _ => (ladder(&[(8, 1)], 4), ladder(&[], 8)),
    };
    let staircase = Staircase::new(k, v).unwrap().with_segment_and_group(segment, group).unwrap();
    let staircase = staircase.with_residual(residual).unwrap().with_sinks(sinks);
    tell!(case, "cache: {heads} heads, {key_dim} and {value_dim} channels, {keys:?}\n{staircase}");
    let shape = Shape::new(heads, heads, 0, key_dim).unwrap().with_value_dim(value_dim).unwrap();
    (staircase, shape, keys)
}

/// What a sequence is by definition: the f16 rows that were appended, `[token][head ·
/// side][channel]`.
type Model = Vec<Vec<Vec<f32>>>;

/// Tokens as a cache takes them: `[kv_heads, tokens, dim]`.
pub fn flat(tokens: &[Vec<Vec<f32>>], heads: usize, side: usize) -> Vec<f32> {
    let rows = (0..heads).flat_map(|head| tokens.iter().map(move |token| &token[2 * head + side]));
    rows.flatten().copied().collect()
}

/// Tokens of numbers that f16 has.
pub fn tokens(case: &mut Case, count: usize, heads: usize, dims: [usize; 2]) -> Model {
    let n = &mut case.numbers;
    let mut number = || f16::from_f32((n.below(4001) as f32 - 2000.0) / 500.0).to_f32();
    let mut row = |dim: usize| (0..dim).map(|_| number()).collect::<Vec<f32>>();
    (0..count).map(|_| (0..2 * heads).map(|index| row(dims[index % 2])).collect()).collect()
}

/// Every token once and in order, unless it was dropped; exact where it is held in 16 bits, and
/// else within its rung's bound.
fn check(cache: &HostCache, sequence: SequenceId, model: &Model) {
    let standing = cache.standing(sequence).unwrap();
    assert_eq!((cache.len(sequence).unwrap(), standing.len()), (model.len(), model.len()));
    // At most the range of a group.
    let range = 8.0;
    for head in 0..cache.kv_heads() {
        let mut next = (0..model.len()).filter(|token| !standing.dropped().contains(token));
        for row in cache.rows(sequence, head).unwrap() {
            assert_eq!(Some(row.token), next.next());
            for (side, got) in [(Side::Keys, &row.key), (Side::Values, &row.value)] {
                let bits = standing.bits(side, row.token);
                let rung = standing.rung_of(side, row.token).unwrap_or(0);
                let bound = match cache.staircase().codec() {
                    Codec::MinMax => cache.staircase().ladder(side).error_bounds()[rung],
                    // A row's scale is at most a twelfth of an octave over its largest number.
                    _ => 1.07 * rotated::error_bound(bits, got.len()),
                };
                let bound = if bits == 16 { 0.0 } else { range * bound + 1e-4 };
                let want = &model[row.token][2 * head + side as usize];
                let near = |(got, want): (&f32, &f32)| f64::from((got - want).abs()) <= bound;
                assert!(got.len() == want.len() && got.iter().zip(want).all(near), "token {}", row.token);
            }
        }
        assert_eq!(next.next(), None);
    }
}

/// Any operations, of which the model does those that aren't refused.
pub fn operations(case: &mut Case) {
    let (staircase, shape, keys) = small_host_cache(case);
    let (heads, dims) = (shape.kv_heads(), [shape.head_dim(), shape.value_dim()]);
    let mut cache = HostCache::new(staircase, &shape, keys).unwrap();
    let mut models: Vec<Option<Model>> = Vec::new();
    let steps = 4 + case.numbers.below(24);
    for _ in 0..steps {
        let n = &mut case.numbers;
        let sequence = if n.once_in(12) { n.size() } else { n.below(models.len() + 1) };
        let number = sequence;
        let there = models.get(number).is_some_and(Option::is_some);
        let sequence = SequenceId::new(number);
        let (kind, count, at) = (n.below(9), n.below(80), n.size());
        match kind {
            0 => {
                tell!(case, "add");
                let index = cache.add().number();
                // Numbers of removed ones are used again.
                let free = models.iter().position(Option::is_none).unwrap_or(models.len());
                assert_eq!(index, free);
                models.resize(models.len().max(index + 1), None);
                models[index] = Some(Model::new());
            }
            1..=3 => {
                let new = tokens(case, count, heads, dims);
                let (mut k, mut v) = (flat(&new, heads, 0), flat(&new, heads, 1));
                let n = &mut case.numbers;
                match n.below(16) {
                    0 => k.truncate(n.below(k.len() + 1)),
                    1 => v.push(0.0),
                    2 if !v.is_empty() => v[at % count] = n.pick(&[f32::NAN, f32::INFINITY, 65_520.0]),
                    _ => {}
                }
                let good = (&k, &v) == (&flat(&new, heads, 0), &flat(&new, heads, 1));
                tell!(case, "append {count} tokens to {sequence}: {} and {} numbers", k.len(), v.len());
                let appended = accepted(cache.append(sequence, &k, &v)).is_some();
                // No numbers at all are no tokens, whatever they were cut from.
                assert!(appended == (good && there) || k.is_empty() && v.is_empty());
                if appended && good {
                    models[number].as_mut().unwrap().extend(new);
                }
            }
            4 => {
                let len = cache.len(sequence).unwrap_or(0);
                let to = if case.numbers.bool() { len.saturating_sub(at % 100) } else { at };
                tell!(case, "truncate {sequence} of {len} to {to}");
                let residual = cache.standing(sequence).map_or(0..0, |standing| standing.residual());
                let fits = (residual.start..=residual.end).contains(&to);
                assert_eq!(accepted(cache.truncate(sequence, to)).is_some(), there && fits);
                if there && fits {
                    models[number].as_mut().unwrap().truncate(to);
                }
            }
            5 if case.numbers.once_in(3) => {
                let len = cache.len(sequence).unwrap_or(0);
                let to = if case.numbers.bool() { len.saturating_sub(at % 100) } else { at };
                tell!(case, "fork {sequence} of {len} at {to}");
                let residual = cache.standing(sequence).map_or(0..0, |standing| standing.residual());
                let fits = there && (residual.start..=residual.end).contains(&to);
                let forked = accepted(cache.fork(sequence, to));
                assert_eq!(forked.is_some(), fits);
                let Some(copy) = forked.map(SequenceId::number) else { continue };
                models.resize(models.len().max(copy + 1), None);
                assert_eq!(models[copy], None);
                models[copy] = models[number].clone();
                models[copy].as_mut().unwrap().truncate(to);
            }
            7 if case.numbers.bool() => {
                let segments = if case.numbers.bool() { at % 4 } else { at };
                tell!(case, "drop {segments} segments of {sequence}");
                let before = cache.standing(sequence).map_or(0, |standing| standing.dropped().end);
                let dropped = accepted(cache.drop_oldest(sequence, segments)).is_some();
                assert!(!dropped || there && cache.staircase().drops());
                if dropped {
                    let after = cache.standing(sequence).unwrap().dropped();
                    let sinks = after.start;
                    let want =
                        (before / cache.staircase().segment() + segments) * cache.staircase().segment();
                    assert!(segments == 0 || after.end == want.max(sinks) || before == sinks);
                }
            }
            5 if case.numbers.once_in(2) => {
                tell!(case, "remove {sequence}");
                assert_eq!(accepted(cache.remove(sequence)).is_some(), there);
                models.iter_mut().skip(number).take(1).for_each(|model| *model = None);
            }
            6 => {
                let (head, segment) = (case.numbers.mild(heads), at);
                tell!(case, "pack {segment} of head {head} of {sequence}");
                for (side, segment) in Side::ALL.into_iter().flat_map(|s| [(s, segment), (s, segment % 4)]) {
                    let pack = accepted(cache.pack(sequence, side, head, segment));
                    assert_eq!(pack.is_some(), there && head < heads);
                    let standing = cache.standing(sequence);
                    let gone = standing.is_ok_and(|standing| segment >= standing.segments());
                    assert!(!gone || pack.flatten().is_none());
                }
                assert_eq!(accepted(cache.rows(sequence, head).map(drop)).is_some(), there && head < heads);
            }
            7 => {
                tell!(case, "save {sequence}, restore and open it");
                let Some(bytes) = accepted(cache.save(sequence)) else { continue };
                let copy = cache.restore(&bytes).unwrap().number();
                models.resize(models.len().max(copy + 1), None);
                assert_eq!(models[copy], None);
                models[copy] = models[number].clone();
                let opened = HostCache::open(&bytes).unwrap();
                check(&opened, SequenceId::FIRST, models[copy].as_ref().unwrap());
                assert_eq!(opened.save(SequenceId::FIRST).unwrap(), bytes);
            }
            _ => {
                tell!(case, "look at {sequence}");
                assert_eq!((cache.standing(sequence).is_ok(), cache.len(sequence).is_ok()), (there, there));
                let summaries = accepted(cache.summarize(sequence));
                assert_eq!(summaries.is_some(), there && keys == StoredKeys::AfterRotation);
                assert!(summaries.is_none_or(|keys| Some(keys.len()) == cache.len(sequence).ok()));
            }
        }
    }
    tell!(case, "compare all");
    let there = |index: &usize| models[*index].is_some();
    assert!(cache.sequences().map(SequenceId::number).eq((0..models.len()).filter(there)));
    let mut bytes = 0;
    for (sequence, model) in models.iter().enumerate() {
        let Some(model) = model else { continue };
        let sequence = SequenceId::new(sequence);
        check(&cache, sequence, model);
        bytes += cache.standing(sequence).unwrap().memory(&shape).total();
    }
    assert_eq!(cache.live_bytes(), bytes);
}

/// The checksum of a file, as `HostCache::save` states it: without it nothing of what was changed
/// would be looked at.
pub fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.len().saturating_sub(8);
    if end < 20 {
        return bytes;
    }
    let length = (bytes.len() as u64).to_le_bytes();
    bytes[12..20].copy_from_slice(&length);
    let hash = bytes[..end].iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    bytes[end..].copy_from_slice(&hash.to_le_bytes());
    bytes
}

/// A file with some of it changed, cut off or made up, mostly with a checksum that fits.
pub fn spoilt(case: &mut Case, mut bytes: Vec<u8>) -> Vec<u8> {
    let n = &mut case.numbers;
    let words = bytes.len() / 4;
    let kind = n.below(6);
    match kind {
        // Of the header, and of all.
        0..=2 => {
            for _ in 0..1 + n.below(3) {
                let most = if kind == 2 { words } else { words.min(28) };
                let (at, word) = (4 * (5.min(most - 1) + n.below(most.saturating_sub(5).max(1))), n.u32());
                bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
            }
        }
        3 => bytes.truncate(n.below(bytes.len() + 1)),
        4 => {
            let more = 4 * n.below(60);
            bytes.extend((0..more).map(|_| n.bits() as u8));
        }
        _ => {
            let at = n.below(bytes.len());
            bytes[at] = n.bits() as u8;
        }
    }
    if n.once_in(6) { bytes } else { sealed(bytes) }
}

/// Files that nobody has saved.
pub fn files(case: &mut Case) {
    let (staircase, shape, keys) = small_host_cache(case);
    let (heads, dims) = (shape.kv_heads(), [shape.head_dim(), shape.value_dim()]);
    let mut cache = HostCache::new(staircase, &shape, keys).unwrap();
    let count = case.numbers.below(260);
    let new = tokens(case, count, heads, dims);
    let sequence = cache.add();
    cache.append(sequence, &flat(&new, heads, 0), &flat(&new, heads, 1)).unwrap();
    let saved = cache.save(sequence).unwrap();
    for _ in 0..8 {
        let bytes = spoilt(case, saved.clone());
        tell!(case, "a file of {count} tokens: {:?}…", &bytes[..bytes.len().min(140)]);
        for opened in
            [accepted(HostCache::open(&bytes)), accepted(cache.restore(&bytes)).map(|_| cache.clone())]
        {
            let Some(mut opened) = opened else { continue };
            use_it(case, &mut opened);
        }
    }
}

/// What is estimated from keys that may be anything.
fn scores_of(case: &mut Case, cache: &HostCache, sequence: SequenceId) {
    tell!(case, "summarize, and score blocks");
    let Some(keys) = accepted(cache.summarize(sequence)) else { return };
    let shape = Shape::new(keys.kv_heads(), keys.kv_heads(), 1, keys.head_dim());
    let shape = shape.and_then(|shape| shape.with_kv_len(keys.len()));
    let Some(shape) = accepted(shape) else { return };
    let (grid, q) = (BlockGrid::causal(&shape), vec![0.5; keys.kv_heads() * keys.head_dim()]);
    for estimate in [Estimate::Saturated, Estimate::Bound, Estimate::MeanKey] {
        let (attention, none) = (Attention::causal(), Tables::new());
        let scores = attention.block_scores(&grid, &q, &keys, estimate, Probe::default(), &none);
        assert_eq!(accepted(scores).is_some(), estimate != Estimate::MeanKey || keys.has_means());
    }
}

/// A cache whose content may be anything, but is of the sizes that it says.
fn use_it(case: &mut Case, cache: &mut HostCache) {
    let (heads, dims) = (cache.kv_heads(), Side::ALL.map(|side| cache.dim(side)));
    let sequence = cache.sequences().last().unwrap();
    let standing = cache.standing(sequence).unwrap();
    let (len, residual) = (standing.len(), standing.residual());
    assert!(len <= MAX_LEN);
    tell!(case, "what it holds: {len} tokens, {residual:?} in rows, {heads} heads of {dims:?}");
    // A file of few bytes may say that very many tokens were dropped.
    if len < 1 << 16 {
        let _ = cache.rows(sequence, 0).unwrap().count();
        let _ = cache.rows(sequence, heads - 1).unwrap().count();
        scores_of(case, cache, sequence);
    }
    assert_eq!(HostCache::open(&cache.save(sequence).unwrap()).unwrap().len(SequenceId::FIRST).unwrap(), len);
    let count = case.numbers.below(140);
    if heads * (dims[0] + dims[1]) * count < 1 << 16 {
        tell!(case, "append {count} more, and forget them");
        let numbers = |side: usize| vec![1.0; heads * dims[side] * count];
        if accepted(cache.append(sequence, &numbers(0), &numbers(1))).is_some() {
            let residual = cache.standing(sequence).unwrap().residual();
            cache.truncate(sequence, residual.start).unwrap();
        }
    }
    cache.remove(sequence).unwrap();
}
