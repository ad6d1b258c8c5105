//! Calls of the native engine allocate nothing once there were two like them: counted by the
//! allocator, which is the whole program's, so the test has a program of its own.
#![cfg(feature = "native")]
#![allow(unsafe_code)] // an allocator is unsafe to write

use std::alloc::{GlobalAlloc, Layout as Memory, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use prflash::native::{HostView, HostViewMut, NativeOperands, NativeOptions};
use prflash::position::Pairing;
use prflash::{
    Attention, BlockGrid, Documents, Layout, Positions, Profile, Rope, Schedule, Seed, Shape, Systematic,
    Tables,
};

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: it hands everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, memory: Memory) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(memory) }
    }

    unsafe fn dealloc(&self, at: *mut u8, memory: Memory) {
        // SAFETY: the caller's promises are the same.
        unsafe { System.dealloc(at, memory) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn calls_allocate_nothing_after_the_first_two() {
    let maxima = Shape::new(8, 2, 1500, 64).unwrap();
    let rope = Positions::from(Rope::new(64, 1e4, Pairing::Half).unwrap());
    for attention in
        [Attention::causal().with_lse(true), Attention::causal().with_lse(true).with_positions(rope)]
    {
        let plan = attention.plan_native(&maxima, &NativeOptions::new().with_threads(1).unwrap()).unwrap();
        // Prefill, and one query whose keys are split.
        for (q_len, with_tables) in [(200, false), (200, true), (1, false)] {
            let shape = maxima.with_q_len(q_len).unwrap();
            let grid = BlockGrid::causal(&shape);
            let schedule = Schedule::sample(&grid, &Profile::harmonic(), &Systematic, Seed::new(1)).unwrap();
            let documents = Documents::from_starts(&vec![0; q_len]).unwrap();
            let tables =
                if with_tables { Tables::from(&schedule).with_documents(&documents) } else { Tables::new() };
            let queries = Layout::heads_first(1, 8, q_len, 64).unwrap();
            let keys = Layout::heads_first(1, 2, 1500, 64).unwrap();
            let numbers: Vec<f32> =
                (0..queries.elements().max(keys.elements())).map(|i| (i as f32).sin()).collect();
            let (mut output, mut lse) = (vec![0.0; queries.elements()], vec![0.0; 8 * q_len]);
            let mut call = || {
                let mut operands = NativeOperands {
                    q: HostView::new(&numbers[..], queries).unwrap(),
                    k: HostView::new(&numbers[..], keys).unwrap(),
                    v: HostView::new(&numbers[..], keys).unwrap(),
                    output: HostViewMut::new(&mut output[..], queries).unwrap(),
                    lse: Some(&mut lse),
                };
                let before = ALLOCATIONS.load(Ordering::Relaxed);
                plan.run(&mut operands, &tables).unwrap();
                ALLOCATIONS.load(Ordering::Relaxed) - before
            };
            // States of splits change places with those of threads, which takes a second call.
            call();
            call();
            let later: Vec<usize> = (0..5).map(|_| call()).collect();
            assert_eq!(later, [0; 5], "{q_len} queries, {with_tables}");
        }
    }
}
