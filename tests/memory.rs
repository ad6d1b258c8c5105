//! Schedules of a million tokens: memory is proportional to the kept blocks, never to the square of
//! the context. No GPU.
#![allow(unsafe_code)] // a global allocator that counts can't be written without

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use prflash::sampling::{Bernoulli, Renewal, RowColumn, Sampler, Segment, expected_blocks};
use prflash::{BlockGrid, Profile, Schedule, Seed, Shape, Systematic};

/// The system's allocator, with the bytes in use and the most there ever were.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged; counting touches no memory
// of the caller's. `realloc` and `alloc_zeroed` come down to these two by the trait's own
// implementation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let in_use = IN_USE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(in_use, Relaxed);
        // SAFETY: the caller keeps alloc's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps dealloc's contract.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The result and the most bytes in use beyond those before.
fn with_peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = IN_USE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = work();
    (result, PEAK.load(Relaxed) - before)
}

/// One test, so that no other allocates beside it.
#[test]
fn a_million_tokens() {
    const T: usize = 16_384;
    let grid = |heads| BlockGrid::causal(&Shape::new(heads, 1, 64 * T, 64).unwrap());
    let budget = Profile::budget_with(12.0, 1.5).unwrap();
    let harmonic = Profile::harmonic();
    let cases: [(&dyn Sampler, &Profile, usize); 7] = [
        (&Systematic, &harmonic, 8),
        (&Systematic, &budget, 8),
        (&Renewal, &harmonic, 8),
        // What these keep varies: by the cut, and by the index set.
        (&Segment, &harmonic, 8),
        (&RowColumn, &harmonic, 1),
        // A draw for each of the 134 million pairs.
        (&Bernoulli, &harmonic, 1),
        (&Bernoulli, &budget, 1),
    ];
    for (sampler, profile, heads) in cases {
        let start = Instant::now();
        let sample = || Schedule::sample(&grid(heads), profile, sampler, Seed::new(1)).unwrap();
        let (schedule, peak) = with_peak(sample);
        let (name, held) = (sampler.name(), schedule.memory_bytes() as usize);
        let expected = expected_blocks(&grid(heads), profile) * heads as f64;
        println!(
            "{name}, {profile}, {heads} heads: {} of {expected:.0} expected blocks, {held} bytes held, peak {peak}, {:?}",
            schedule.visited_blocks(),
            start.elapsed()
        );
        assert_eq!(held as u64, 8 * schedule.visited_blocks() + 4 * (heads * T + 1) as u64, "{name}");
        // Lists grow by doubling, old beside new; tables hold a few numbers for every distance.
        assert!(peak <= 5 * held / 2 + 64 * T, "{name}: {peak} bytes at the peak, {held} held");
    }
    let start = Instant::now();
    Renewal.prepare(&harmonic.cumulative(T)).unwrap();
    println!("gaps of a renewal walk: {:?}", start.elapsed());
}
