//! What became of the commands that were recorded for a cache.
//!
//! The host's view of a cache runs ahead of the GPU: it counts what was recorded. Some of that never runs, since its encoder was dropped, or runs out of order. Every change is
//! therefore numbered, and a sequence has a *stamp* in GPU memory, the number of the last change that took place there. Kernels carry out a change only where the stamp is the
//! one that the change was recorded after (`shaders/commit.wgsl`), so nothing that was stored is ever damaged. The ledger works out the same on the host, from what wgpu says of
//! encoders, and takes back what didn't take place.

use std::sync::{Arc, Mutex};

use crate::error::{Error, Result};
use crate::gpu::context::lock;

/// Below all numbers.
const FIRST: u32 = 0x7e00_0000;

/// What the host holds of a sequence beside its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) len: usize,
    /// Segments that have left the residual.
    pub(super) segments: usize,
    /// The change that led here; 0 for a sequence without any.
    pub(super) stamp: u32,
}

/// A sequence as the ledger sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// After everything that was recorded and may still take place.
    pub(super) state: State,
    /// The stamp on the GPU, as far as is known.
    done: u32,
    /// Tells sequences apart that had the same index one after the other.
    life: u32,
}

impl Account {
    /// Of a new sequence.
    pub(super) fn new(life: u32) -> Self {
        Self { life, ..Self::default() }
    }
}

/// What a recorded operation does with one sequence.
#[derive(Clone, Copy, Debug)]
struct Touch {
    index: usize,
    life: u32,
    before: State,
    /// Of an operation that only reads: the same as before.
    after: State,
    /// It relies on a change that didn't take place.
    dead: bool,
}

/// One recorded operation.
#[derive(Debug)]
struct Recorded {
    number: u32,
    /// The arena that it works in, counted from 0.
    arena: u32,
    touches: Vec<Touch>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Ran,
    Dropped,
}

type Fates = Arc<Mutex<Vec<(u32, Fate)>>>;

/// The operations whose fate isn't known yet.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    last: u32,
    recorded: Vec<Recorded>,
    fates: Fates,
    /// The newest arena that sequences were moved to on the GPU.
    arena: u32,
    fault: Option<String>,
}

/// Goes into an encoder and tells the ledger what became of it: call [`ran`](Token::ran) when its commands have run.
#[derive(Debug)]
pub(crate) struct Token {
    number: u32,
    fates: Fates,
    ran: bool,
}

impl Token {
    /// The commands have run.
    pub(crate) fn ran(mut self) {
        self.ran = true;
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let fate = if self.ran { Fate::Ran } else { Fate::Dropped };
        lock(&self.fates).push((self.number, fate));
    }
}

/// An operation to be recorded.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) number: u32,
    touches: Vec<Touch>,
}

impl Draft {
    /// The operation takes a sequence from where it is to this state, whose stamp becomes the operation's number.
    pub(super) fn change(&mut self, index: usize, account: &mut Account, len: usize, segments: usize) {
        let after = State { len, segments, stamp: self.number };
        self.touches.push(Touch { index, life: account.life, before: account.state, after, dead: false });
        account.state = after;
    }

    /// The operation reads a sequence as it is.
    pub(super) fn read(&mut self, index: usize, account: &Account) {
        let state = account.state;
        self.touches.push(Touch { index, life: account.life, before: state, after: state, dead: false });
    }
}

impl Ledger {
    /// The number of the next operation.
    pub(super) fn draft(&mut self) -> Draft {
        // 0 is no number. After 2³² of them the old ones are long forgotten. Memory that was of another sequence may hold anything where a stamp comes to lie, so numbers are such
        // as hardly occur there: pairs of f16 numbers of which one is NaN.
        self.last = self.last.max(FIRST).checked_add(1).unwrap_or(FIRST);
        Draft { number: self.last, touches: Vec::new() }
    }

    /// Enters an operation that works in this arena; its token belongs into the encoder.
    pub(super) fn enter(&mut self, draft: Draft, arena: u32) -> Token {
        let Draft { number, touches } = draft;
        self.recorded.push(Recorded { number, arena, touches });
        Token { number, fates: self.fates.clone(), ran: false }
    }

    /// The newest arena that the sequences are known to have been moved to.
    pub(super) fn arena(&self) -> u32 {
        self.arena
    }

    /// Takes into account what has become known, with the account of each sequence that there is.
    pub(super) fn settle<S>(
        &mut self,
        sequences: &mut [S],
        account: impl Fn(&mut S) -> Option<&mut Account>,
    ) {
        let fates = std::mem::take(&mut *lock(&self.fates));
        for (number, fate) in fates {
            let Some(at) = self.recorded.iter().position(|recorded| recorded.number == number) else {
                continue;
            };
            let Recorded { arena, touches, .. } = self.recorded.remove(at);
            for touch in touches {
                let account = sequences.get_mut(touch.index).and_then(&account);
                let Some(account) = account.filter(|account| account.life == touch.life) else { continue };
                let took_place = fate == Fate::Ran && !touch.dead && account.done == touch.before.stamp;
                let reads = touch.before.stamp == touch.after.stamp;
                if reads {
                    if fate == Fate::Ran && !took_place {
                        self.fail(format!(
                            "sequence {} was read in another state than when that was recorded",
                            touch.index
                        ));
                    }
                } else if took_place && arena >= self.arena {
                    account.done = touch.after.stamp;
                } else {
                    if fate == Fate::Ran {
                        self.fail(format!(
                            "tokens {}..{} of sequence {} were not stored",
                            touch.before.len, touch.after.len, touch.index
                        ));
                    }
                    if !touch.dead {
                        account.state = touch.before;
                        self.forget(at, touch.index, touch.life);
                    }
                }
            }
            if fate == Fate::Ran {
                self.arena = self.arena.max(arena);
            }
        }
    }

    /// What was recorded from place `at` on for this sequence relies on what didn't take place.
    fn forget(&mut self, at: usize, index: usize, life: u32) {
        let later = self.recorded[at..].iter_mut().flat_map(|recorded| &mut recorded.touches);
        later.filter(|touch| (touch.index, touch.life) == (index, life)).for_each(|touch| touch.dead = true);
    }

    /// A sequence was truncated: nothing leads back to more tokens.
    pub(super) fn truncate(&mut self, index: usize, len: usize) {
        let touches = self.recorded.iter_mut().flat_map(|recorded| &mut recorded.touches);
        for touch in touches.filter(|touch| touch.index == index) {
            touch.before.len = touch.before.len.min(len);
            touch.after.len = touch.after.len.min(len);
        }
    }

    fn fail(&mut self, what: String) {
        self.fault.get_or_insert(what);
    }

    /// Says once what commands were lost by running out of order.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.fault.take() {
            None => Ok(()),
            Some(what) => Err(Error::out_of_order(format!(
                "{what}: encoders were submitted in another order than they were recorded in, or an earlier one was dropped"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
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
    }

    /// What the kernels do: a sequence is the list of changes that took place, with the length that they led to.
    #[derive(Default)]
    struct Gpu {
        sequences: Vec<Vec<(u32, usize)>>,
    }

    impl Gpu {
        fn run(&mut self, change: Change) {
            for (index, expected, len) in change.parts {
                let sequence = &mut self.sequences[index];
                if sequence.last().map_or(0, |last| last.0) == expected {
                    sequence.push((change.number, len));
                }
            }
            change.token.ran();
        }
    }

    /// Whatever is dropped or comes out of order: when all encoders are gone, the host knows what the GPU holds.
    #[test]
    fn the_host_learns_what_took_place() {
        for seed in 0..2000 {
            let mut random = SmallRng::seed_from_u64(seed);
            let (mut ledger, mut gpu) = (Ledger::default(), Gpu::default());
            let mut accounts: Vec<Account> = (0..3).map(Account::new).collect();
            gpu.sequences.resize_with(3, Vec::new);
            let mut waiting: Vec<Change> = Vec::new();
            let (orderly, mut lost) = (seed % 2 == 0, false);
            for _ in 0..30 {
                ledger.settle(&mut accounts, own);
                let fault = ledger.check().is_err();
                assert!(!fault || !orderly || lost, "seed {seed}: a fault without cause");
                let mut draft = ledger.draft();
                let mut parts = Vec::new();
                for index in (0..3).filter(|_| random.random_bool(0.5)) {
                    let State { len, stamp, .. } = accounts[index].state;
                    draft.change(index, &mut accounts[index], len + 1, 0);
                    parts.push((index, stamp, len + 1));
                }
                let number = draft.number;
                waiting.push(Change { token: ledger.enter(draft, 0), number, parts });
                if !orderly {
                    waiting.shuffle(&mut random);
                }
                while random.random_bool(0.6) && !waiting.is_empty() {
                    let change = waiting.remove(0);
                    match random.random_bool(0.7) {
                        true => gpu.run(change),
                        // What is recorded already may rely on it.
                        false => lost = true,
                    }
                }
            }
            waiting.into_iter().for_each(|change| gpu.run(change));
            ledger.settle(&mut accounts, own);
            for (account, sequence) in accounts.iter().zip(&gpu.sequences) {
                let (stamp, len) = sequence.last().copied().unwrap_or((0, 0));
                assert_eq!((account.state.stamp, account.state.len), (stamp, len), "seed {seed}");
                assert_eq!(account.done, stamp, "seed {seed}");
            }
            assert!(ledger.recorded.is_empty());
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
        account.state.len = 30;
        ledger.truncate(0, 30);
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
}
