//! What a cache holds when encoders are dropped, come in another order, or the device goes away:
//! nothing that was stored before is lost.

use crate::common::{gpu, numbers};
use prflash::cache::{Chunk, HostCache, KvCache, KvInput, SequenceId, Staircase, StoredKeys};
use prflash::{Attention, Context, DType, Layout, Queries, Shape, Tables, Tensor, wgpu};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const HEADS: usize = 2;
const DIM: usize = 64;
const CAPACITY: usize = 2048;

/// A device of its own: the order in which commands ran is known of what one thread tells, and
/// other tests have threads that tell of the shared device's.
fn own(test: &str) -> Option<Context> {
    gpu(test).map(|_| Context::new_blocking().unwrap())
}

fn shape() -> Shape {
    Shape::new(HEADS, HEADS, 8192, DIM).unwrap()
}

fn new_cache(context: &Context, staircase: Staircase) -> KvCache {
    KvCache::new(context, staircase, &shape(), StoredKeys::AfterRotation).unwrap()
}

/// Rows to append from, and the same for the host.
struct Source {
    input: KvInput,
    rows: Vec<f32>,
}

impl Source {
    fn new(context: &Context, cache: &KvCache, seed: u64) -> Self {
        let layout = Layout::heads_first(1, HEADS, CAPACITY, DIM).unwrap();
        let rows = numbers(seed, layout.elements());
        let tensor = Tensor::upload(context, DType::F32, layout, &rows).unwrap();
        Self { input: cache.input(tensor.view(), tensor.view()).unwrap(), rows }
    }

    /// `[heads, tokens, dim]` of the rows from `first` on.
    fn part(&self, first: usize, tokens: usize) -> Vec<f32> {
        let head = |head: usize| self.rows[(head * CAPACITY + first) * DIM..][..tokens * DIM].to_vec();
        (0..HEADS).flat_map(head).collect()
    }
}

fn encoder(context: &Context) -> wgpu::CommandEncoder {
    context.device().create_command_encoder(&Default::default())
}

fn submit(context: &Context, encoder: wgpu::CommandEncoder) {
    context.queue().submit([encoder.finish()]);
}

/// Appends rows `first..first + tokens` of the source, and submits.
fn append(
    context: &Context,
    cache: &mut KvCache,
    source: &Source,
    sequence: SequenceId,
    first: usize,
    tokens: usize,
) {
    let mut encoder = encoder(context);
    let chunk = Chunk { sequence, entry: 0, rows: first..first + tokens };
    cache.append(&mut encoder, &source.input, &[chunk]).unwrap();
    submit(context, encoder);
}

#[test]
fn growth_that_is_dropped_takes_nothing_with_it() {
    let Some(context) = gpu("dropped growth") else { return };
    for (case, staircase) in
        [Staircase::recommended(), Staircase::plain(), Staircase::paper()].into_iter().enumerate()
    {
        let mut cache = new_cache(&context, staircase);
        let source = Source::new(&context, &cache, case as u64);
        let (a, b) = (cache.add(), cache.add());
        append(&context, &mut cache, &source, a, 0, 40);
        let before = cache.save_blocking(a).unwrap();
        let capacity = cache.capacity_bytes();

        // An append of another sequence.
        let mut dropped = encoder(&context);
        cache.append(&mut dropped, &source.input, &[Chunk { sequence: b, entry: 0, rows: 0..2000 }]).unwrap();
        assert!(cache.capacity_bytes() > capacity, "the case is one of growth");
        assert_eq!(cache.len(b).unwrap(), 2000);
        drop(dropped);
        assert_eq!((cache.len(a).unwrap(), cache.len(b).unwrap()), (40, 0));
        assert!(cache.save_blocking(a).unwrap() == before, "the words differ");

        // Room alone, twice, and finished but not submitted.
        let mut dropped = encoder(&context);
        cache.reserve(&mut dropped, b, 4000).unwrap();
        drop(dropped.finish());
        let mut dropped = encoder(&context);
        cache.reserve(&mut dropped, b, 8000).unwrap();
        drop(dropped);
        assert!(cache.save_blocking(a).unwrap() == before, "the words differ");

        // A restored sequence.
        let mut dropped = encoder(&context);
        let c = cache.restore(&mut dropped, &before).unwrap();
        drop(dropped);
        assert_eq!(cache.len(c).unwrap(), 0);
        assert!(cache.save_blocking(a).unwrap() == before, "the words differ");
        cache.remove(c).unwrap();

        // And then all goes on as if nothing had been.
        append(&context, &mut cache, &source, a, 40, 500);
        append(&context, &mut cache, &source, b, 0, 300);
        let mut host =
            HostCache::new(cache.staircase().clone(), &shape(), StoredKeys::AfterRotation).unwrap();
        for (tokens, sequence) in [(540, a), (300, b)] {
            let index = host.add();
            host.append(index, &source.part(0, tokens), &source.part(0, tokens)).unwrap();
            assert!(cache.save_blocking(sequence).unwrap() == host.save(index).unwrap(), "the words differ");
        }
        cache.check_blocking().unwrap();
    }
}

/// A segment leaves the residual in a dropped encoder: its rows are still where they were.
#[test]
fn segments_that_did_not_leave_are_still_there() {
    let Some(context) = gpu("dropped segments") else { return };
    let mut cache = new_cache(&context, Staircase::recommended());
    let source = Source::new(&context, &cache, 7);
    let a = cache.add();
    append(&context, &mut cache, &source, a, 0, 255);
    let (before, work) = (cache.save_blocking(a).unwrap(), cache.work());
    for tokens in [1, 200, 1500] {
        let mut dropped = encoder(&context);
        cache
            .append(&mut dropped, &source.input, &[Chunk { sequence: a, entry: 0, rows: 300..300 + tokens }])
            .unwrap();
        assert!(cache.standing(a).unwrap().segments() > 0);
        drop(dropped);
        assert_eq!((cache.len(a).unwrap(), cache.work()), (255, work));
        assert_eq!(cache.standing(a).unwrap().segments(), 0);
        assert!(cache.save_blocking(a).unwrap() == before, "the words differ");
    }
    append(&context, &mut cache, &source, a, 255, 600);
    let mut host = HostCache::new(cache.staircase().clone(), &shape(), StoredKeys::AfterRotation).unwrap();
    let index = host.add();
    host.append(index, &source.part(0, 855), &source.part(0, 855)).unwrap();
    assert!(cache.save_blocking(a).unwrap() == host.save(index).unwrap(), "the words differ");
}

/// What the host alone does stays done, whatever becomes of encoders before and after.
#[test]
fn truncation_and_removal_go_with_dropped_encoders() {
    let Some(context) = gpu("truncated and dropped") else { return };
    let mut cache = new_cache(&context, Staircase::recommended());
    let source = Source::new(&context, &cache, 11);
    let (a, b) = (cache.add(), cache.add());
    append(&context, &mut cache, &source, a, 0, 200);
    append(&context, &mut cache, &source, b, 0, 100);
    let kept = cache.save_blocking(b).unwrap();
    // Truncated while an append is waiting, which is then dropped: to what was there before, or
    // less.
    for (to, len) in [(220, 200), (150, 150), (0, 0)] {
        let mut dropped = encoder(&context);
        cache.append(&mut dropped, &source.input, &[Chunk { sequence: a, entry: 0, rows: 0..40 }]).unwrap();
        cache.truncate(a, to).unwrap();
        drop(dropped);
        assert_eq!(cache.len(a).unwrap(), len);
        let mut host =
            HostCache::new(cache.staircase().clone(), &shape(), StoredKeys::AfterRotation).unwrap();
        let index = host.add();
        host.append(index, &source.part(0, len), &source.part(0, len)).unwrap();
        assert!(cache.save_blocking(a).unwrap() == host.save(index).unwrap(), "truncated to {to}");
    }
    // Removed while an append is waiting; the next sequence takes its number and maybe its memory.
    let mut dropped = encoder(&context);
    cache.append(&mut dropped, &source.input, &[Chunk { sequence: a, entry: 0, rows: 0..300 }]).unwrap();
    cache.remove(a).unwrap();
    assert_eq!(cache.add(), a);
    drop(dropped);
    assert_eq!(cache.len(a).unwrap(), 0);
    append(&context, &mut cache, &source, a, 500, 300);
    let mut host = HostCache::new(cache.staircase().clone(), &shape(), StoredKeys::AfterRotation).unwrap();
    let index = host.add();
    host.append(index, &source.part(500, 300), &source.part(500, 300)).unwrap();
    assert!(cache.save_blocking(a).unwrap() == host.save(index).unwrap());
    assert!(cache.save_blocking(b).unwrap() == kept);
}

/// An encoder that relies on a dropped one, or comes before the one that it relies on, changes
/// nothing, and that is said once.
#[test]
fn what_relies_on_a_dropped_encoder_is_left_out_and_told() {
    let Some(context) = own("encoders that rely on others") else { return };
    let mut cache = new_cache(&context, Staircase::recommended());
    let source = Source::new(&context, &cache, 8);
    let (a, b) = (cache.add(), cache.add());
    append(&context, &mut cache, &source, a, 0, 250);
    append(&context, &mut cache, &source, b, 0, 30);
    let before = [a, b].map(|sequence| cache.save_blocking(sequence).unwrap());

    // The second relies on the first for `a`, but not for `b`.
    let (mut first, mut second) = (encoder(&context), encoder(&context));
    cache.append(&mut first, &source.input, &[Chunk { sequence: a, entry: 0, rows: 0..100 }]).unwrap();
    let chunks =
        [Chunk { sequence: a, entry: 0, rows: 0..300 }, Chunk { sequence: b, entry: 0, rows: 30..70 }];
    cache.append(&mut second, &source.input, &chunks).unwrap();
    drop(first);
    submit(&context, second);
    context.wait().unwrap();
    assert_eq!((cache.len(a).unwrap(), cache.len(b).unwrap()), (250, 70));
    let error = cache.check_blocking().unwrap_err();
    assert!(error.is_out_of_order(), "{error}");
    cache.check_blocking().unwrap();
    assert!(cache.save_blocking(a).unwrap() == before[0], "the words differ");
    assert!(cache.save_blocking(b).unwrap() != before[1]);

    // In the other order: the second is left out, the first takes place.
    let (mut first, mut second) = (encoder(&context), encoder(&context));
    cache.append(&mut first, &source.input, &[Chunk { sequence: a, entry: 0, rows: 250..260 }]).unwrap();
    cache.append(&mut second, &source.input, &[Chunk { sequence: a, entry: 0, rows: 0..300 }]).unwrap();
    submit(&context, second);
    submit(&context, first);
    context.wait().unwrap();
    let error = cache
        .append(&mut encoder(&context), &source.input, &[Chunk { sequence: a, entry: 0, rows: 0..1 }])
        .unwrap_err();
    assert!(error.is_out_of_order(), "{error}");
    assert_eq!(cache.len(a).unwrap(), 260);
    let mut host = HostCache::new(cache.staircase().clone(), &shape(), StoredKeys::AfterRotation).unwrap();
    let index = host.add();
    host.append(index, &source.part(0, 260), &source.part(0, 260)).unwrap();
    assert!(cache.save_blocking(a).unwrap() == host.save(index).unwrap(), "the words differ");

    // To read before what was recorded is submitted is told, too, whether by attention or by a
    // copy.
    let mut waiting = encoder(&context);
    cache.append(&mut waiting, &source.input, &[Chunk { sequence: a, entry: 0, rows: 0..5 }]).unwrap();
    assert!(cache.save_blocking(a).unwrap_err().is_out_of_order());
    let plan = Attention::causal().plan_cached(&cache, &shape().with_q_len(1).unwrap()).unwrap();
    let q = Tensor::zeros(&context, DType::F32, Layout::heads_first(1, HEADS, 1, DIM).unwrap()).unwrap();
    let queries = [Queries { sequence: a, entry: 0, rows: 0..1, positions: None }];
    plan.run_cached(&cache, q.view(), &queries, &Tables::new()).unwrap();
    submit(&context, waiting);
    context.wait().unwrap();
    assert!(plan.run_cached(&cache, q.view(), &queries, &Tables::new()).unwrap_err().is_out_of_order());
    plan.run_cached(&cache, q.view(), &queries, &Tables::new()).unwrap();
    context.wait().unwrap();
    cache.check_blocking().unwrap();
    assert_eq!(cache.len(a).unwrap(), 265);
}

/// A fork relies on what it copies. Dropped, it leaves an empty sequence; where what it copies
/// isn't there any more or not yet, nothing is copied, and that is told, even if the other sequence
/// was removed meanwhile.
#[test]
fn a_fork_takes_place_where_what_it_copies_is_there() {
    let Some(context) = own("forks and dropped encoders") else { return };
    for staircase in [Staircase::recommended(), Staircase::recommended_rotated()] {
        let mut cache = new_cache(&context, staircase);
        let source = Source::new(&context, &cache, 12);
        let a = cache.add();
        append(&context, &mut cache, &source, a, 0, 700);
        let before = cache.save_blocking(a).unwrap();
        let work = cache.work();

        let mut dropped = encoder(&context);
        let b = cache.fork(&mut dropped, a, 700).unwrap();
        assert_eq!((cache.len(b).unwrap(), cache.work()), (700, work));
        drop(dropped);
        assert_eq!((cache.len(b).unwrap(), cache.work()), (0, work));
        cache.remove(b).unwrap();
        assert_eq!(cache.work(), work);

        // In one encoder with what comes before and after.
        let mut all = encoder(&context);
        let b = cache.fork(&mut all, a, 700).unwrap();
        let more = |sequence| [Chunk { sequence, entry: 0, rows: 0..90 }];
        cache.append(&mut all, &source.input, &more(a)).unwrap();
        let c = cache.fork(&mut all, a, 790).unwrap();
        cache.append(&mut all, &source.input, &more(b)).unwrap();
        submit(&context, all);
        let words = [a, b, c].map(|sequence| cache.save_blocking(sequence).unwrap());
        assert!(words[0] == words[1] && words[0] == words[2] && words[0] != before, "the words differ");

        // What it copies was dropped; and so was what comes to the copy.
        for removed in [false, true] {
            let parent = cache.fork(&mut encoder(&context), a, 790);
            cache.remove(parent.unwrap()).unwrap();
            let mut all = encoder(&context);
            let parent = cache.fork(&mut all, a, 790).unwrap();
            submit(&context, all);
            let (mut first, mut second, mut third) =
                (encoder(&context), encoder(&context), encoder(&context));
            cache.append(&mut first, &source.input, &more(parent)).unwrap();
            let copy = cache.fork(&mut second, parent, 880).unwrap();
            cache.append(&mut third, &source.input, &more(copy)).unwrap();
            assert_eq!(cache.len(copy).unwrap(), 970);
            if removed {
                cache.remove(parent).unwrap();
            }
            drop(first);
            submit(&context, second);
            submit(&context, third);
            context.wait().unwrap();
            assert_eq!(cache.len(copy).unwrap(), 0, "removed: {removed}");
            let error = cache.check_blocking().unwrap_err();
            assert!(error.is_out_of_order(), "{error}");
            cache.check_blocking().unwrap();
            // The copy goes on as an empty sequence.
            append(&context, &mut cache, &source, copy, 0, 700);
            assert!(cache.save_blocking(copy).unwrap() == before, "the words differ");
            cache.remove(copy).unwrap();
        }

        // Out of order: the other sequence has gone on when the fork comes.
        let (mut first, mut second) = (encoder(&context), encoder(&context));
        let copy = cache.fork(&mut first, a, 790).unwrap();
        cache.append(&mut second, &source.input, &more(a)).unwrap();
        submit(&context, second);
        submit(&context, first);
        context.wait().unwrap();
        assert_eq!((cache.len(copy).unwrap(), cache.len(a).unwrap()), (0, 880));
        assert!(cache.check_blocking().unwrap_err().is_out_of_order());
        assert!(cache.save_blocking(b).unwrap() == words[1], "the words differ");
    }
}

/// Growth and appends of different sequences don't rely on each other: any order is right.
#[test]
fn growth_in_another_order_is_right() {
    let Some(context) = own("growth in another order") else { return };
    let mut cache = new_cache(&context, Staircase::recommended());
    let source = Source::new(&context, &cache, 9);
    let sequences = [cache.add(), cache.add(), cache.add()];
    append(&context, &mut cache, &source, sequences[0], 0, 300);
    let mut waiting = Vec::new();
    for (sequence, tokens) in [(sequences[1], 2000), (sequences[2], 1000), (sequences[1], 40)] {
        let mut encoder = encoder(&context);
        cache.append(&mut encoder, &source.input, &[Chunk { sequence, entry: 0, rows: 0..tokens }]).unwrap();
        waiting.push(encoder);
    }
    // The last one relies on the first, and none relies on the second.
    let (last, second, first) = (waiting.pop().unwrap(), waiting.pop().unwrap(), waiting.pop().unwrap());
    submit(&context, second);
    submit(&context, first);
    submit(&context, last);
    context.wait().unwrap();
    match cache.check_blocking() {
        // Whether a later arena was there already depends on how memory grew.
        Err(error) => assert!(error.is_out_of_order(), "{error}"),
        Ok(()) => assert_eq!(sequences.map(|s| cache.len(s).unwrap()), [300, 2040, 1000]),
    }
    let mut host = HostCache::new(cache.staircase().clone(), &shape(), StoredKeys::AfterRotation).unwrap();
    for sequence in [sequences[0], sequences[2]] {
        let (index, tokens) = (host.add(), cache.len(sequence).unwrap());
        host.append(index, &source.part(0, tokens), &source.part(0, tokens)).unwrap();
        assert!(cache.save_blocking(sequence).unwrap() == host.save(index).unwrap(), "the words differ");
    }
}

#[test]
fn a_lost_device_changes_nothing_and_is_told() {
    if gpu("lost device under a cache").is_none() {
        return;
    }
    let context = Context::new_blocking().unwrap();
    let mut cache = new_cache(&context, Staircase::recommended());
    let source = Source::new(&context, &cache, 10);
    let a = cache.add();
    append(&context, &mut cache, &source, a, 0, 40);
    let saved = cache.save_blocking(a).unwrap();
    let mut encoder = encoder(&context);
    cache.append(&mut encoder, &source.input, &[Chunk { sequence: a, entry: 0, rows: 0..5 }]).unwrap();
    context.device().destroy();
    let lost = |error: prflash::Error| assert!(error.is_device_lost(), "{error}");
    lost(
        cache
            .append(&mut encoder, &source.input, &[Chunk { sequence: a, entry: 0, rows: 0..5 }])
            .unwrap_err(),
    );
    lost(
        cache
            .append(&mut encoder, &source.input, &[Chunk { sequence: a, entry: 0, rows: 0..2000 }])
            .unwrap_err(),
    );
    lost(cache.reserve(&mut encoder, a, 4000).unwrap_err());
    lost(cache.restore(&mut encoder, &saved).unwrap_err());
    lost(cache.save_blocking(a).unwrap_err());
    lost(cache.check_blocking().unwrap_err());
    assert_eq!((cache.len(a).unwrap(), cache.sequences().count()), (45, 1));
    drop(encoder);
    assert_eq!(cache.len(a).unwrap(), 40);
}

/// Encoders are submitted at once, later, in any order, or never. In the end each sequence is made
/// of whole appends that were submitted; all that had what they rely on are among them; and its
/// words are those of a host cache that was given just these.
#[test]
fn whatever_becomes_of_encoders() {
    let Some(context) = own("random fates of encoders") else { return };
    for seed in 0..12 {
        let mut random = SmallRng::seed_from_u64(seed);
        // The first tells which appends took place, the second what became of codes.
        let mut caches =
            [Staircase::plain(), Staircase::paper()].map(|staircase| new_cache(&context, staircase));
        let layout = Layout::heads_first(1, HEADS, 300, DIM).unwrap();
        let tensor = Tensor::zeros(&context, DType::F32, layout).unwrap();
        let inputs = caches.each_ref().map(|cache| cache.input(tensor.view(), tensor.view()).unwrap());
        for _ in 0..3 {
            let _ = caches.each_mut().map(KvCache::add);
        }
        let mut waiting: Vec<(usize, wgpu::CommandEncoder)> = Vec::new();
        let mut submitted = Vec::new();
        let (mut told, mut careless) = (false, false);
        // Half of the runs keep the order, and drop only what nothing relies on yet.
        let orderly = seed % 2 == 0;
        if !orderly {
            // Both caches have room, so that the same appends take place in both: those for an
            // arena that sequences have left don't.
            let mut encoder = encoder(&context);
            for cache in &mut caches {
                (0..3).for_each(|sequence| {
                    cache.reserve(&mut encoder, SequenceId::new(sequence), 8000).unwrap()
                });
            }
            submit(&context, encoder);
        }
        let mut appends: Vec<Vec<(SequenceId, usize)>> = Vec::new();
        for step in 0..25 {
            let mut encoder = encoder(&context);
            let mut chunks: Vec<(SequenceId, usize)> = Vec::new();
            for sequence in [0, 1, 2].map(SequenceId::new) {
                if random.random_bool(0.5) {
                    chunks.push((sequence, random.random_range(1..300)));
                }
            }
            // The tensor is read when the commands run; so it is written there, too: every append
            // has a value of its own.
            let values =
                Tensor::upload(&context, DType::F32, layout, &vec![(step + 1) as f32; layout.elements()])
                    .unwrap();
            let bytes = 4 * layout.elements() as u64;
            encoder.copy_buffer_to_buffer(values.view().buffer(), 0, tensor.view().buffer(), 0, bytes);
            let of =
                |&(sequence, tokens): &(SequenceId, usize)| Chunk { sequence, entry: 0, rows: 0..tokens };
            let list: Vec<Chunk> = chunks.iter().map(of).collect();
            for (cache, input) in caches.iter_mut().zip(&inputs) {
                while let Err(error) = cache.append(&mut encoder, input, &list) {
                    assert!(error.is_out_of_order() && !orderly, "seed {seed}: {error}");
                    told = true;
                }
            }
            appends.push(chunks);
            waiting.push((step, encoder));
            while random.random_bool(if orderly { 0.9 } else { 0.5 }) && !waiting.is_empty() {
                let last = waiting.len() - 1;
                if random.random_bool(0.25) {
                    // Orderly: the newest.
                    let at = if orderly { last } else { random.random_range(0..=last) };
                    careless |= at != last;
                    waiting.remove(at);
                } else {
                    let at = if orderly { 0 } else { random.random_range(0..=last) };
                    careless |= at != 0;
                    let (step, encoder) = waiting.remove(at);
                    submit(&context, encoder);
                    submitted.push(step);
                }
            }
        }
        drop(waiting);
        context.wait().unwrap();
        for cache in &caches {
            while let Err(error) = cache.check_blocking() {
                assert!(error.is_out_of_order(), "seed {seed}: {error}");
                told = true;
            }
        }
        assert!(careless || !told, "seed {seed}: nothing was out of order");
        for sequence in [0, 1, 2].map(SequenceId::new) {
            let plain = caches[0].to_host_blocking(sequence).unwrap();
            let rows: Vec<f32> = plain.rows(SequenceId::FIRST, 1).unwrap().map(|row| row.value[0]).collect();
            let mut found: Vec<(usize, usize)> = Vec::new();
            for run in rows.chunk_by(|a, b| a == b) {
                found.push((run[0] as usize - 1, run.len()));
            }
            let of = |step: usize| appends[step].iter().find(|(of, _)| *of == sequence).map(|of| of.1);
            assert!(found.windows(2).all(|pair| pair[0].0 < pair[1].0), "seed {seed}: {found:?}");
            for &(step, tokens) in &found {
                assert!(submitted.contains(&step), "seed {seed}: append {step} was never submitted");
                assert_eq!(Some(tokens), of(step), "seed {seed}: append {step}");
            }
            if orderly {
                let want: Vec<usize> = submitted.iter().copied().filter(|&step| of(step).is_some()).collect();
                assert_eq!(found.iter().map(|of| of.0).collect::<Vec<_>>(), want, "seed {seed}");
            }
            let mut host =
                HostCache::new(caches[1].staircase().clone(), &shape(), StoredKeys::AfterRotation).unwrap();
            let index = host.add();
            let wide: Vec<f32> = rows.iter().flat_map(|&x| vec![x; DIM]).collect();
            let both = [&wide[..], &wide[..]].concat();
            host.append(index, &both, &both).unwrap();
            let same = caches[1].save_blocking(sequence).unwrap() == host.save(index).unwrap();
            assert!(same, "seed {seed}: the words differ");
        }
    }
}
