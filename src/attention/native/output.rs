//! Results written by many threads into one slice: the only `unsafe` of the native engine.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, Ordering};

use half::{bf16, f16};

use super::views::{HostNumbersMut, HostViewMut};
use crate::layout::Layout;

/// A slice of which threads write different elements.
#[derive(Debug)]
struct Shared<'a, T> {
    first: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it is an exclusive borrow of the slice, and is used only to store numbers, which `write`
// asks its caller to do without two threads storing the same element.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above; nothing is ever read.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T: Copy> Shared<'a, T> {
    fn new(slice: &'a mut [T]) -> Self {
        Self { first: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// Stores `value(0), value(1) …` from `at` on.
    ///
    /// # Panics
    /// Where the slice ends before `at + count`.
    ///
    /// # Safety
    /// No other thread may store any of these elements at the same time.
    unsafe fn write(&self, at: usize, count: usize, value: impl Fn(usize) -> T) {
        assert!(at <= self.len && count <= self.len - at, "row past the end of an output");
        for index in 0..count {
            // SAFETY: at + index is below len, as was just checked, so the pointer is inside the
            // slice that `first` was taken from; this thread alone stores there, says the caller.
            unsafe { self.first.add(at + index).write(value(index)) };
        }
    }
}

#[derive(Debug)]
enum Numbers<'a> {
    F32(Shared<'a, f32>),
    F16(Shared<'a, f16>),
    Bf16(Shared<'a, bf16>),
}

/// The output and the log-sum-exp of a call, of which every row is written at most once.
#[derive(Debug)]
pub(super) struct Results<'a> {
    numbers: Numbers<'a>,
    layout: Layout,
    lse: Option<(Shared<'a, f32>, Layout)>,
    /// A bit for each row, set when it is written.
    written: &'a [AtomicU32],
}

impl<'a> Results<'a> {
    /// `lse` is `[batch, heads, rows]`, contiguous. `written` is memory to work in.
    pub(super) fn new(
        output: &'a mut HostViewMut<'_>,
        lse: Option<(&'a mut [f32], Layout)>,
        written: &'a mut Vec<AtomicU32>,
    ) -> Self {
        let layout = *output.layout();
        let numbers = match output.numbers() {
            HostNumbersMut::F32(numbers) => Numbers::F32(Shared::new(numbers)),
            HostNumbersMut::F16(numbers) => Numbers::F16(Shared::new(numbers)),
            HostNumbersMut::Bf16(numbers) => Numbers::Bf16(Shared::new(numbers)),
        };
        let [batch, heads, len, _] = layout.dims();
        written.clear();
        written.resize_with((batch * heads * len).div_ceil(32), AtomicU32::default);
        Self { numbers, layout, lse: lse.map(|(lse, layout)| (Shared::new(lse), layout)), written }
    }

    /// Stores one row, rounded to the type of the output.
    ///
    /// # Panics
    /// Where there is no such row, or it was stored before.
    pub(super) fn write(&self, [entry, head, row]: [usize; 3], output: &[f32], lse: f32) {
        let [batch, heads, len, dim] = self.layout.dims();
        assert!(entry < batch && head < heads && row < len && output.len() == dim, "no such row");
        let index = (entry * heads + head) * len + row;
        let bit = 1 << (index % 32);
        let before = self.written[index / 32].fetch_or(bit, Ordering::Relaxed);
        assert!(before & bit == 0, "a row is written twice");
        let at = self.layout.index(entry, head, row, 0);
        // SAFETY: whoever sets the bit is the only one that ever stores this row, and rows of other
        // numbers share no element with it: views that are written are disjoint
        // (`HostViewMut::new`), and so is the contiguous log-sum-exp.
        unsafe {
            match &self.numbers {
                Numbers::F32(numbers) => numbers.write(at, dim, |c| output[c]),
                Numbers::F16(numbers) => numbers.write(at, dim, |c| f16::from_f32(output[c])),
                Numbers::Bf16(numbers) => numbers.write(at, dim, |c| bf16::from_f32(output[c])),
            }
            if let Some((numbers, layout)) = &self.lse {
                numbers.write(layout.index(entry, head, row, 0), 1, |_| lse);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_stored_once() {
        let mut numbers = [7.0_f32; 12];
        let layout = Layout::with_strides([1, 1, 2, 4], 0, [0, 0, 8]).unwrap();
        let mut view = HostViewMut::new(&mut numbers[..], layout).unwrap();
        let mut written = Vec::new();
        let results = Results::new(&mut view, None, &mut written);
        results.write([0, 0, 1], &[1.0, 2.0, 3.0, 4.0], 0.0);
        for again in [[0, 0, 1], [0, 0, 2], [0, 1, 0], [1, 0, 0]] {
            let write = std::panic::AssertUnwindSafe(|| results.write(again, &[0.0; 4], 0.0));
            assert!(std::panic::catch_unwind(write).is_err(), "{again:?}");
        }
        assert_eq!(numbers, [7.0, 7.0, 7.0, 7.0, 7.0, 7.0, 7.0, 7.0, 1.0, 2.0, 3.0, 4.0]);
    }
}
