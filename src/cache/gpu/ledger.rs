//! What became of the commands that were recorded for a cache.
//!
//! The host's view of a cache runs ahead of the GPU: it counts what was recorded. Some of that
//! never runs, since its encoder was dropped, or runs out of order. Every change is therefore
//! numbered, and a sequence has a *stamp* in GPU memory, the number of the last change that took
//! place there. Kernels carry out a change only where the stamp is the one that the change was
//! recorded after (`shaders/commit.wgsl`), so nothing that was stored is ever damaged. The ledger
//! works out the same on the host, from what wgpu says of encoders, and takes back what didn't take
//! place.
//!
//! wgpu tells of submissions in their order, but threads that poll a device may tell of two at once
//! and swap them. Of what one thread told, the order is taken for the order in which commands ran;
//! otherwise a sequence is *suspect* and the cache looks its stamp up. (Encoders out of order whose
//! fates are swapped back by such threads go unnoticed; what was stored is whole even then.)

use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

use crate::error::{Error, Result};
use crate::runtime::sync::lock;

/// Below all numbers. Memory that was of another sequence may hold anything where a stamp comes to
/// lie, so numbers are such as hardly occur there: pairs of f16 numbers of which one is NaN.
const FIRST: u32 = 0x7e00_0000;

/// What the host holds of a sequence beside its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) len: usize,
    /// Segments that have left the residual.
    pub(super) segments: usize,
    /// Segments that had left it elsewhere, before it was restored or copied.
    pub(super) given: usize,
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
    /// The ledger of a new sequence.
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
    /// Reads whose commands have run though it isn't known that the change before them has: its
    /// number, and who told.
    early: Vec<(u32, ThreadId)>,
    suspect: bool,
    /// The sequence isn't there any more; a copy of it may still be under way.
    gone: bool,
}

/// A read of one sequence, as the change of this number left it.
#[derive(Clone, Copy, Debug)]
struct Read {
    number: u32,
    index: usize,
    life: u32,
    stamp: u32,
}

/// A sequence that an operation copies, as the change of this number left it, and the new one, each
/// by index and life.
#[derive(Clone, Copy, Debug)]
struct Copy {
    number: u32,
    stamp: u32,
    from: (usize, u32),
    to: (usize, u32),
}

/// What became of an operation: who told that it ran, if it did.
type Fate = (u32, Option<ThreadId>);
type Fates = Arc<Mutex<Vec<Fate>>>;

/// The operations whose fate isn't known yet.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    last: u32,
    /// Operations that aren't known to have run or to have been dropped, with the arena that they
    /// work in.
    recorded: Vec<(u32, u32)>,
    chains: Vec<Chain>,
    reads: Vec<Read>,
    copies: Vec<Copy>,
    fates: Fates,
    /// The newest arena that sequences were moved to on the GPU, and who told.
    arena: (u32, Option<ThreadId>),
    fault: Option<String>,
}

/// Goes into an encoder and tells the ledger what became of it: call [`ran`](Token::ran) when its
/// commands have run.
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
    copies: Vec<Copy>,
}

impl Draft {
    /// The operation takes a sequence from where it is to this state, whose stamp becomes the
    /// operation's number.
    pub(super) fn change(&mut self, index: usize, account: &mut Account, len: usize, segments: usize) {
        let after = State { len, segments, given: account.state.given, stamp: self.number };
        self.changes.push((index, account.life, account.state, after));
        account.state = after;
    }

    /// The operation makes a new sequence this state, which others have worked for.
    pub(super) fn give(&mut self, index: usize, account: &mut Account, len: usize, segments: usize) {
        let after = State { len, segments, given: segments, stamp: self.number };
        self.changes.push((index, account.life, account.state, after));
        account.state = after;
    }

    /// The operation reads a sequence as it is.
    pub(super) fn read(&mut self, index: usize, account: &Account) {
        self.reads.push((index, account.life, account.state.stamp));
    }

    /// What the operation makes of a new sequence is a copy of another as it is, each with its
    /// index.
    pub(super) fn copy(&mut self, from: (usize, &Account), to: (usize, &Account)) {
        let [of, new] = [from, to].map(|(index, account)| (index, account.life));
        self.copies.push(Copy { number: self.number, stamp: from.1.state.stamp, from: of, to: new });
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
        Draft { number: self.last, changes: Vec::new(), reads: Vec::new(), copies: Vec::new() }
    }

    /// Enters an operation that works in this arena; its token belongs into the encoder.
    pub(super) fn enter(&mut self, draft: Draft, arena: u32) -> Token {
        let Draft { number, changes, reads, copies } = draft;
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
                    gone: false,
                }),
            }
        }
        let reads = reads.into_iter().map(|(index, life, stamp)| Read { number, index, life, stamp });
        self.reads.extend(reads);
        self.copies.extend(copies);
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
        // What is known of sequences that are gone is of no use, but to copies of them.
        let copies = &self.copies;
        self.chains.retain_mut(|chain| {
            chain.gone = chain.account(sequences, &account).is_none();
            !chain.gone || copies.iter().any(|copy| copy.from == (chain.index, chain.life))
        });
        for (number, ran) in fates {
            let Some(at) = self.recorded.iter().position(|recorded| recorded.0 == number) else { continue };
            let (_, arena) = self.recorded.remove(at);
            self.check_copies(number, ran, sequences, &account);
            for index in 0..self.chains.len() {
                let newest = self.arena;
                let (back, fault) = self.chains[index].learn(number, ran, newest);
                self.fault = self.fault.take().or(fault.filter(|_| !self.chains[index].gone));
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

    /// Whether the copies of an operation found what they were recorded for. Where that isn't sure,
    /// the new sequence's stamp tells; where nobody looks it up, since there is one thread, what
    /// isn't sure is wrong.
    fn check_copies<S>(
        &mut self,
        number: u32,
        ran: Option<ThreadId>,
        sequences: &mut [S],
        account: &impl Fn(&mut S) -> Option<&mut Account>,
    ) {
        let of_it: Vec<Copy> = self.copies.extract_if(.., |copy| copy.number == number).collect();
        for Copy { stamp, from, to, .. } in of_it {
            let at = |which| self.chains.iter().position(|chain| (chain.index, chain.life) == which);
            let found = at(from).is_none_or(|other| self.chains[other].done.0 == stamp);
            let Some(new) = at(to).filter(|_| ran.is_some() && !found) else { continue };
            let chain = &mut self.chains[new];
            chain.suspect = true;
            if cfg!(target_arch = "wasm32") {
                chain.suspect = false;
                let link = chain.links.iter().position(|link| link.after.stamp == number);
                let back = link.map(|link| chain.cut(link).0);
                if let (Some(state), Some(account)) = (back, chain.account(sequences, account)) {
                    account.state = state;
                }
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
        self.chains.iter().filter(|chain| chain.suspect && !chain.gone).map(|chain| chain.index).collect()
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
    /// Takes the fate of an operation into account: gives the state that the sequence goes back to,
    /// if it does, and what was lost.
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
mod tests;
