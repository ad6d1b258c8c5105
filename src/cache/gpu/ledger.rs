//! What became of the commands that were recorded for a cache.
//!
//! The host's view of a cache runs ahead of the GPU: it counts what was recorded. Some of that never runs, since its encoder was dropped, or runs out of order. Every change is
//! therefore numbered, and a sequence has a *stamp* in GPU memory, the number of the last change that took place there. Kernels carry out a change only where the stamp is the
//! one that the change was recorded after (`shaders/commit.wgsl`), so nothing that was stored is ever damaged. The ledger works out the same on the host, from what wgpu says of
//! encoders, and takes back what didn't take place.
//!
//! wgpu tells of submissions in their order, but threads that poll a device may tell of two at once and swap them. Of what one thread told, the order is taken for the order in which
//! commands ran; otherwise a sequence is *suspect* and the cache looks its stamp up.
//! (Encoders out of order whose fates are swapped back by such threads go unnoticed; what was stored is whole even then.)

use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

use crate::error::{Error, Result};
use crate::runtime::sync::lock;

/// Below all numbers. Memory that was of another sequence may hold anything where a stamp comes to lie, so numbers are such as hardly occur there: pairs of f16 numbers of which
/// one is NaN.
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
    /// Tells sequences apart that had the same index one after the other.
    life: u32,
}

impl Account {
    /// Of a new sequence.
    pub(super) fn new(life: u32) -> Self {
        Self { life, ..Self::default() }
    }
}

/// A change of one sequence that may still take place, or has.
#[derive(Clone, Copy, Debug)]
struct Link {
    before: State,
    after: State,
    arena: u32,
    /// Who told that its commands have run.
    ran: Option<ThreadId>,
}

/// The changes of one sequence in order: each relies on the one before.
#[derive(Debug)]
struct Chain {
    index: usize,
    life: u32,
    /// The change that is known to have taken place last, and who told.
    done: (u32, Option<ThreadId>),
    links: Vec<Link>,
    /// Changes that rely on one that didn't take place: number, tokens before and after.
    dead: Vec<(u32, usize, usize)>,
    /// Reads whose commands have run though it isn't known that the change before them has: its number, and who told.
    early: Vec<(u32, ThreadId)>,
    suspect: bool,
}

/// A read of one sequence, as the change of this number left it.
#[derive(Clone, Copy, Debug)]
struct Read {
    number: u32,
    index: usize,
    life: u32,
    stamp: u32,
}

/// What became of an operation: who told that it ran, if it did.
type Fate = (u32, Option<ThreadId>);
type Fates = Arc<Mutex<Vec<Fate>>>;

/// The operations whose fate isn't known yet.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    last: u32,
    /// Operations that aren't known to have run or to have been dropped, with the arena that they work in.
    recorded: Vec<(u32, u32)>,
    chains: Vec<Chain>,
    reads: Vec<Read>,
    fates: Fates,
    /// The newest arena that sequences were moved to on the GPU, and who told.
    arena: (u32, Option<ThreadId>),
    fault: Option<String>,
}

/// Goes into an encoder and tells the ledger what became of it: call [`ran`](Token::ran) when its commands have run.
#[derive(Debug)]
pub(crate) struct Token {
    number: u32,
    fates: Fates,
    ran: Option<ThreadId>,
}

impl Token {
    /// The commands have run.
    pub(crate) fn ran(self) {
        self.told_by(std::thread::current().id());
    }

    fn told_by(mut self, thread: ThreadId) {
        self.ran = Some(thread);
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        lock(&self.fates).push((self.number, self.ran));
    }
}

/// An operation to be recorded.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) number: u32,
    changes: Vec<(usize, u32, State, State)>,
    reads: Vec<(usize, u32, u32)>,
}

impl Draft {
    /// The operation takes a sequence from where it is to this state, whose stamp becomes the operation's number.
    pub(super) fn change(&mut self, index: usize, account: &mut Account, len: usize, segments: usize) {
        let after = State { len, segments, stamp: self.number };
        self.changes.push((index, account.life, account.state, after));
        account.state = after;
    }

    /// The operation reads a sequence as it is.
    pub(super) fn read(&mut self, index: usize, account: &Account) {
        self.reads.push((index, account.life, account.state.stamp));
    }
}

impl Chain {
    /// The account of its sequence, if that is still there.
    fn account<'s, S>(
        &self,
        sequences: &'s mut [S],
        account: &impl Fn(&mut S) -> Option<&mut Account>,
    ) -> Option<&'s mut Account> {
        let account = account(sequences.get_mut(self.index)?)?;
        (account.life == self.life).then_some(account)
    }

    /// What comes from a link on doesn't take place: the state before it, and what was lost.
    fn cut(&mut self, at: usize) -> (State, Option<String>) {
        let before = self.links.get(at).map_or(State::default(), |link| link.before);
        let mut fault = None;
        for link in self.links.drain(at..) {
            match link.ran {
                Some(_) => fault = fault.or(Some(not_stored(self.index, link.before.len, link.after.len))),
                None => self.dead.push((link.after.stamp, link.before.len, link.after.len)),
            }
        }
        (before, fault)
    }

    /// Changes at the front that have run have taken place.
    fn confirm(&mut self) {
        while let Some(link) = self.links.first().filter(|link| link.ran.is_some() && !self.suspect) {
            self.done = (link.after.stamp, link.ran);
            self.links.remove(0);
        }
    }
}

fn not_stored(index: usize, from: usize, to: usize) -> String {
    format!("tokens {from}..{to} of sequence {index} were not stored")
}

fn misread(index: usize) -> String {
    format!("sequence {index} was read in another state than when that was recorded")
}

impl Ledger {
    /// The number of the next operation.
    pub(super) fn draft(&mut self) -> Draft {
        self.last = self.last.max(FIRST).checked_add(1).unwrap_or(FIRST + 1);
        Draft { number: self.last, changes: Vec::new(), reads: Vec::new() }
    }

    /// Enters an operation that works in this arena; its token belongs into the encoder.
    pub(super) fn enter(&mut self, draft: Draft, arena: u32) -> Token {
        let Draft { number, changes, reads } = draft;
        self.recorded.push((number, arena));
        for (index, life, before, after) in changes {
            let link = Link { before, after, arena, ran: None };
            match self.chains.iter_mut().find(|chain| (chain.index, chain.life) == (index, life)) {
                Some(chain) => chain.links.push(link),
                None => self.chains.push(Chain {
                    index,
                    life,
                    done: (before.stamp, None),
                    links: vec![link],
                    dead: Vec::new(),
                    early: Vec::new(),
                    suspect: false,
                }),
            }
        }
        let reads = reads.into_iter().map(|(index, life, stamp)| Read { number, index, life, stamp });
        self.reads.extend(reads);
        Token { number, fates: self.fates.clone(), ran: None }
    }

    /// The newest arena that the sequences are known to have been moved to.
    pub(super) fn arena(&self) -> u32 {
        self.arena.0
    }

    /// Takes into account what has become known, with the account of each sequence that there is.
    pub(super) fn settle<S>(
        &mut self,
        sequences: &mut [S],
        account: impl Fn(&mut S) -> Option<&mut Account>,
    ) {
        let fates = std::mem::take(&mut *lock(&self.fates));
        if fates.is_empty() {
            return;
        }
        // What is known of sequences that are gone is of no use.
        self.chains.retain(|chain| chain.account(sequences, &account).is_some());
        for (number, ran) in fates {
            let Some(at) = self.recorded.iter().position(|recorded| recorded.0 == number) else { continue };
            let (_, arena) = self.recorded.remove(at);
            for index in 0..self.chains.len() {
                let newest = self.arena;
                let (back, fault) = self.chains[index].learn(number, ran, newest);
                self.fault = self.fault.take().or(fault);
                let account = self.chains[index].account(sequences, &account);
                if let (Some(state), Some(account)) = (back, account) {
                    account.state = state;
                }
            }
            self.check_reads(number, ran);
            if ran.is_some() && arena > self.arena.0 {
                self.arena = (arena, ran);
            }
        }
    }

    /// Whether the reads of an operation found what they were recorded for.
    fn check_reads(&mut self, number: u32, ran: Option<ThreadId>) {
        let of_it: Vec<Read> = self.reads.extract_if(.., |read| read.number == number).collect();
        let Some(thread) = ran else { return };
        for Read { index, life, stamp, .. } in of_it {
            let chain = self.chains.iter_mut().find(|chain| (chain.index, chain.life) == (index, life));
            let Some(chain) = chain else { continue };
            let wrong = match chain.links.iter().position(|link| link.after.stamp == stamp) {
                // The change before it hasn't run; unless somebody else is about to tell.
                Some(at) if chain.links[at].ran.is_none() => {
                    chain.early.push((stamp, thread));
                    false
                }
                Some(_) => false,
                None if chain.dead.iter().any(|dead| dead.0 == stamp) => true,
                // A later change has taken place before.
                None => chain.done.0 != stamp && stamp != 0 && chain.done.1 == Some(thread),
            };
            if wrong {
                self.fault.get_or_insert(misread(index));
            }
        }
    }

    /// The sequences of which the order of changes isn't sure.
    #[cfg_attr(target_arch = "wasm32", allow(dead_code))] // where there is one thread
    pub(super) fn suspects(&self) -> Vec<usize> {
        self.chains.iter().filter(|chain| chain.suspect).map(|chain| chain.index).collect()
    }

    /// What a suspect's stamp is, after everything that was submitted.
    #[cfg_attr(target_arch = "wasm32", allow(dead_code))]
    pub(super) fn resolve(&mut self, index: usize, account: &mut Account, stamp: u32) {
        let chain = self.chains.iter_mut().find(|chain| (chain.index, chain.life) == (index, account.life));
        let Some(chain) = chain else { return };
        chain.suspect = false;
        let taken = chain.links.iter().position(|link| link.after.stamp == stamp).map_or(0, |at| at + 1);
        for link in chain.links.drain(..taken) {
            chain.done = (link.after.stamp, link.ran);
        }
        // Those after it that have run were refused.
        if let Some(lost) = chain.links.iter().position(|link| link.ran.is_some()) {
            let (state, fault) = chain.cut(lost);
            account.state = state;
            self.fault = self.fault.take().or(fault);
        }
    }

    /// A sequence was truncated: nothing leads back to more tokens.
    pub(super) fn truncate(&mut self, index: usize, account: &mut Account, len: usize) {
        account.state.len = len;
        let chains =
            self.chains.iter_mut().filter(|chain| (chain.index, chain.life) == (index, account.life));
        for link in chains.flat_map(|chain| &mut chain.links) {
            link.before.len = link.before.len.min(len);
            link.after.len = link.after.len.min(len);
        }
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

impl Chain {
    /// Takes the fate of an operation into account: gives the state that the sequence goes back to, if it does, and what was lost.
    fn learn(
        &mut self,
        number: u32,
        ran: Option<ThreadId>,
        newest: (u32, Option<ThreadId>),
    ) -> (Option<State>, Option<String>) {
        if let Some(at) = self.dead.iter().position(|dead| dead.0 == number) {
            let (_, from, to) = self.dead.remove(at);
            return (None, ran.map(|_| not_stored(self.index, from, to)));
        }
        let Some(at) = self.links.iter().position(|link| link.after.stamp == number) else {
            return (None, None);
        };
        let early: Vec<_> = self.early.extract_if(.., |early| early.0 == number).collect();
        let Some(thread) = ran else {
            let state = self.links.remove(at).before;
            let (_, fault) = self.cut(at);
            return (Some(state), fault.or((!early.is_empty()).then(|| misread(self.index))));
        };
        let misread = early.iter().any(|early| early.1 == thread).then(|| misread(self.index));
        self.links[at].ran = ran;
        let old_arena = self.links[at].arena < newest.0;
        let overtaken =
            self.links[at + 1..].iter().position(|link| link.ran.is_some()).map(|later| at + 1 + later);
        // Who told of both knows their order.
        if old_arena && newest.1 == ran {
            let (state, fault) = self.cut(at);
            return (Some(state), fault.or(misread));
        }
        if let Some(later) = overtaken.filter(|&later| self.links[later].ran == ran) {
            let (state, fault) = self.cut(later);
            self.confirm();
            return (Some(state), fault.or(misread));
        }
        self.suspect |= old_arena || overtaken.is_some();
        self.confirm();
        (None, misread)
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

    /// Whatever is dropped or comes out of order, and whoever tells of it: when all encoders are gone, the host knows what the GPU holds.
    #[test]
    fn the_host_learns_what_took_place() {
        let threads = two_threads();
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
                waiting.push(Change { token: ledger.enter(draft, 0), number, parts });
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
                    // Only what ran in order is told in another one: both at once is past what can be found out.
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
}
