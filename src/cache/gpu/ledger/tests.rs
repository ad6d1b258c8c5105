use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::*;

fn own(account: &mut Account) -> Option<&mut Account> {
    Some(account)
}

/// A change as it lies in an encoder.
struct Change {
    token: Token,
    number: u32,
    /// (sequence, stamp that it expects, length that it leads to)
    parts: Vec<(usize, u32, usize)>,
    /// A copy: (of sequence, which stamp it expects, to sequence, length)
    copy: Option<(usize, u32, usize, usize)>,
}

/// What the kernels do: a sequence is the list of changes that took place, with the length that
/// they led to.
#[derive(Default)]
struct Gpu {
    sequences: Vec<Vec<(u32, usize)>>,
}

impl Gpu {
    fn stamp(&self, index: usize) -> u32 {
        self.sequences[index].last().map_or(0, |last| last.0)
    }

    fn run(&mut self, change: Change) -> Token {
        for (index, expected, len) in change.parts {
            let sequence = &mut self.sequences[index];
            if sequence.last().map_or(0, |last| last.0) == expected {
                sequence.push((change.number, len));
            }
        }
        if let Some((from, expected, to, len)) = change.copy
            && self.stamp(from) == expected
        {
            self.sequences[to] = vec![(change.number, len)];
        }
        change.token
    }
}

fn two_threads() -> [ThreadId; 2] {
    [(); 2].map(|()| std::thread::spawn(|| std::thread::current().id()).join().unwrap())
}

/// Settles, and looks up the stamps of suspects.
fn settle(ledger: &mut Ledger, accounts: &mut [Account], gpu: &Gpu) {
    ledger.settle(accounts, own);
    for index in ledger.suspects() {
        ledger.resolve(index, &mut accounts[index], gpu.stamp(index));
    }
}

/// Whatever is dropped or comes out of order, and whoever tells of it: when all encoders are gone,
/// the host knows what the GPU holds.
#[test]
fn the_host_learns_what_took_place() {
    let threads = two_threads();
    let mut copies = 0;
    for seed in 0..4000 {
        let mut random = SmallRng::seed_from_u64(seed);
        let (mut ledger, mut gpu) = (Ledger::default(), Gpu::default());
        let mut accounts: Vec<Account> = (0..3).map(Account::new).collect();
        gpu.sequences.resize_with(3, Vec::new);
        let mut waiting: Vec<Change> = Vec::new();
        // What each of the threads is about to tell.
        let mut telling: [Vec<Token>; 2] = Default::default();
        let (orderly, mut relied, mut faults) = (seed % 2 == 0, false, 0);
        for _ in 0..30 {
            settle(&mut ledger, &mut accounts, &gpu);
            faults += usize::from(ledger.check().is_err());
            let mut draft = ledger.draft();
            let mut parts = Vec::new();
            for (index, account) in accounts.iter_mut().enumerate() {
                let State { len, stamp, .. } = account.state;
                if random.random_bool(0.5) {
                    draft.change(index, account, len + 1, 0);
                    parts.push((index, stamp, len + 1));
                }
            }
            let number = draft.number;
            // One sequence more, which begins as another is.
            let from = random.random_range(0..accounts.len());
            let State { len, stamp, .. } = accounts[from].state;
            let copied = stamp != 0 && stamp != number && accounts.len() < 6 && random.random_bool(0.3);
            let copy = copied.then(|| {
                let to = accounts.len();
                let mut new = Account::new(to as u32);
                draft.give(to, &mut new, len, 0);
                draft.copy((from, &accounts[from]), (to, &new));
                accounts.push(new);
                gpu.sequences.push(Vec::new());
                copies += 1;
                (from, stamp, to, len)
            });
            waiting.push(Change { token: ledger.enter(draft, 0), number, parts, copy });
            if !orderly {
                waiting.shuffle(&mut random);
            }
            while random.random_bool(0.6) && !waiting.is_empty() {
                let change = waiting.remove(0);
                if random.random_bool(0.7) {
                    let token = gpu.run(change);
                    telling[if orderly { random.random_range(0..2) } else { 0 }].push(token);
                } else {
                    // What is recorded already may rely on it.
                    relied |= !waiting.is_empty();
                }
            }
            for (thread, telling) in threads.iter().zip(&mut telling) {
                // Only what ran in order is told in another one: both at once is past what can be
                // found out.
                let told = if orderly { random.random_range(0..=telling.len()) } else { telling.len() };
                telling.drain(..told).for_each(|token| token.told_by(*thread));
            }
        }
        let last = waiting.into_iter().map(|change| gpu.run(change)).collect::<Vec<_>>();
        for (thread, telling) in threads.iter().zip(telling) {
            telling.into_iter().for_each(|token| token.told_by(*thread));
        }
        last.into_iter().for_each(|token| token.told_by(threads[0]));
        settle(&mut ledger, &mut accounts, &gpu);
        faults += usize::from(ledger.check().is_err());
        assert!(!orderly || relied || faults == 0, "seed {seed}: a fault without cause");
        for (account, sequence) in accounts.iter().zip(&gpu.sequences) {
            let (stamp, len) = sequence.last().copied().unwrap_or((0, 0));
            assert_eq!((account.state.stamp, account.state.len), (stamp, len), "seed {seed}");
        }
        assert!(ledger.recorded.is_empty());
        assert!(ledger.chains.iter().all(|chain| chain.links.is_empty() && chain.dead.is_empty()));
    }
}

#[test]
fn what_is_dropped_alone_is_no_fault() {
    let (mut ledger, mut account) = (Ledger::default(), Account::new(0));
    let mut draft = ledger.draft();
    draft.change(0, &mut account, 40, 0);
    ledger.enter(draft, 0).ran();
    let mut draft = ledger.draft();
    draft.change(0, &mut account, 300, 1);
    drop(ledger.enter(draft, 0));
    ledger.settle(std::slice::from_mut(&mut account), own);
    ledger.check().unwrap();
    assert_eq!((account.state.len, account.state.segments, account.state.stamp), (40, 0, FIRST + 1));
}

#[test]
fn truncation_stays() {
    let (mut ledger, mut account) = (Ledger::default(), Account::new(0));
    let mut draft = ledger.draft();
    draft.change(0, &mut account, 40, 0);
    ledger.enter(draft, 0).ran();
    let mut draft = ledger.draft();
    draft.change(0, &mut account, 60, 0);
    let token = ledger.enter(draft, 0);
    ledger.truncate(0, &mut account, 30);
    drop(token);
    ledger.settle(std::slice::from_mut(&mut account), own);
    assert_eq!(account.state.len, 30);
}

#[test]
fn reads_of_another_state_are_told_once() {
    let (mut ledger, mut account) = (Ledger::default(), Account::new(0));
    let mut draft = ledger.draft();
    draft.change(0, &mut account, 40, 0);
    let first = ledger.enter(draft, 0);
    let mut draft = ledger.draft();
    draft.read(0, &account);
    let read = ledger.enter(draft, 0);
    read.ran();
    first.ran();
    ledger.settle(std::slice::from_mut(&mut account), own);
    assert!(ledger.check().unwrap_err().is_out_of_order());
    ledger.check().unwrap();
    assert_eq!(account.state.len, 40);
}

/// What was recorded for an arena that isn't the newest any more wrote where nobody reads.
#[test]
fn changes_in_an_old_arena_are_lost() {
    let mut ledger = Ledger::default();
    let mut accounts = [Account::new(0), Account::new(1)];
    let mut draft = ledger.draft();
    draft.change(0, &mut accounts[0], 40, 0);
    let old = ledger.enter(draft, 0);
    let mut draft = ledger.draft();
    draft.change(1, &mut accounts[1], 50, 0);
    let new = ledger.enter(draft, 1);
    new.ran();
    old.ran();
    ledger.settle(&mut accounts, own);
    assert!(ledger.check().unwrap_err().is_out_of_order());
    assert_eq!((accounts[0].state.len, accounts[1].state.len, ledger.arena()), (0, 50, 1));
}
