//! The sequences of a cache by number.

use std::fmt;

use crate::error::{Error, Result};

/// A sequence of a cache ([`KvCache`](crate::cache::KvCache),
/// [`HostCache`](crate::cache::HostCache)), until it is removed. Numbers of removed sequences are
/// used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(usize);

impl SequenceId {
    /// The first that a cache gives: the only one of a cache that was
    /// [opened](crate::cache::HostCache::open) or [copied](crate::cache::KvCache::to_host).
    pub const FIRST: Self = Self(0);

    /// The sequence of this number, if a cache has it.
    pub const fn new(number: usize) -> Self {
        Self(number)
    }

    /// The sequence's number, counted from 0.
    pub const fn number(self) -> usize {
        self.0
    }
}

impl fmt::Display for SequenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a cache holds of each of its sequences.
#[derive(Clone, Debug)]
pub(super) struct SequenceTable<T> {
    /// By number; nothing where there is no sequence now.
    slots: Vec<Option<T>>,
}

impl<T> Default for SequenceTable<T> {
    fn default() -> Self {
        Self { slots: Vec::new() }
    }
}

impl<T> SequenceTable<T> {
    /// Adds a sequence at the first number that is free.
    pub(super) fn add(&mut self, held: T) -> SequenceId {
        let number = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        match self.slots.get_mut(number) {
            Some(slot) => *slot = Some(held),
            None => self.slots.push(Some(held)),
        }
        SequenceId(number)
    }

    pub(super) fn remove(&mut self, sequence: SequenceId) -> Result<T> {
        self.slots.get_mut(sequence.0).and_then(Option::take).ok_or_else(|| absent(sequence))
    }

    pub(super) fn get(&self, sequence: SequenceId) -> Result<&T> {
        self.slots.get(sequence.0).and_then(Option::as_ref).ok_or_else(|| absent(sequence))
    }

    pub(super) fn get_mut(&mut self, sequence: SequenceId) -> Result<&mut T> {
        self.slots.get_mut(sequence.0).and_then(Option::as_mut).ok_or_else(|| absent(sequence))
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = SequenceId> + '_ {
        (0..self.slots.len()).filter(|&number| self.slots[number].is_some()).map(SequenceId)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().flatten()
    }

    /// The sequences by number.
    pub(super) fn slots(&self) -> &[Option<T>] {
        &self.slots
    }

    pub(super) fn slots_mut(&mut self) -> &mut [Option<T>] {
        &mut self.slots
    }

    /// The same sequences, held otherwise.
    pub(super) fn replace(&mut self, slots: Vec<Option<T>>) {
        self.slots = slots;
    }
}

fn absent(sequence: SequenceId) -> Error {
    Error::argument_error("sequence", format!("there is no sequence {sequence}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_used_again() {
        let mut table = SequenceTable::default();
        let ids = ["a", "b", "c"].map(|held| table.add(held));
        assert_eq!(ids, [0, 1, 2].map(SequenceId::new));
        assert_eq!(table.remove(ids[1]).unwrap(), "b");
        assert_eq!(table.remove(ids[1]).unwrap_err().argument(), Some("sequence"));
        assert_eq!(table.get(ids[1]).unwrap_err().to_string(), "sequence: there is no sequence 1");
        assert_eq!(table.ids().collect::<Vec<_>>(), [ids[0], ids[2]]);
        assert_eq!(table.add("d"), ids[1]);
        *table.get_mut(ids[2]).unwrap() = "e";
        assert_eq!(table.iter().copied().collect::<Vec<_>>(), ["a", "d", "e"]);
        assert!(table.get(SequenceId::new(3)).is_err());
    }
}
