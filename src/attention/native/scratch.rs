//! Memory that calls work in, kept for the next ones.

use std::sync::{Mutex, PoisonError};

use bytemuck::{Pod, Zeroable};

/// A cache line, so that vectors begin at one.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// f32 numbers from the beginning of a cache line on.
#[derive(Default)]
pub(super) struct Aligned {
    lines: Vec<Line>,
}

impl Aligned {
    /// At least so many numbers, whatever they are.
    pub(super) fn numbers(&mut self, count: usize) -> &mut [f32] {
        let lines = count.div_ceil(16);
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0.0; 16]));
        }
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..count]
    }
}

/// Values that are made once and used again, by one thread at a time.
pub(super) struct Pool<T> {
    free: Mutex<Vec<T>>,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self { free: Mutex::default() }
    }
}

impl<T: Default> Pool<T> {
    /// Lends a value to `work`. If that panics the value is lost.
    pub(super) fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let free = || self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = free().pop();
        let mut value = taken.unwrap_or_default();
        let result = work(&mut value);
        free().push(value);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_begin_at_a_line() {
        let mut aligned = Aligned::default();
        for count in [1, 15, 16, 17, 1000] {
            let numbers = aligned.numbers(count);
            assert_eq!((numbers.len(), numbers.as_ptr().align_offset(64)), (count, 0));
        }
    }

    #[test]
    fn values_are_used_again() {
        let pool: Pool<Vec<u8>> = Pool::default();
        pool.with(|one| {
            one.push(1);
            pool.with(|other| assert!(other.is_empty()));
        });
        let held = pool.free.lock().unwrap().len();
        assert_eq!(held, 2);
    }
}
