//! Tensors in the caller's memory.

use half::{bf16, f16};

use crate::error::{Error, Result, ensure};
use crate::layout::{DType, Layout};

/// Numbers in host memory, in one of the storage types.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum HostNumbers<'a> {
    /// IEEE 754 binary32.
    F32(&'a [f32]),
    /// IEEE 754 binary16.
    F16(&'a [f16]),
    /// bfloat16.
    Bf16(&'a [bf16]),
}

/// The same, to be written.
#[derive(Debug)]
#[non_exhaustive]
pub enum HostNumbersMut<'a> {
    /// IEEE 754 binary32.
    F32(&'a mut [f32]),
    /// IEEE 754 binary16.
    F16(&'a mut [f16]),
    /// bfloat16.
    Bf16(&'a mut [bf16]),
}

impl HostNumbers<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(numbers) => numbers.len(),
            Self::F16(numbers) => numbers.len(),
            Self::Bf16(numbers) => numbers.len(),
        }
    }

    pub(super) fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F16(_) => DType::F16,
            Self::Bf16(_) => DType::Bf16,
        }
    }
}

impl HostNumbersMut<'_> {
    fn as_numbers(&self) -> HostNumbers<'_> {
        match self {
            Self::F32(numbers) => HostNumbers::F32(numbers),
            Self::F16(numbers) => HostNumbers::F16(numbers),
            Self::Bf16(numbers) => HostNumbers::Bf16(numbers),
        }
    }
}

macro_rules! from_slices {
    ($($number:ty, $variant:ident;)*) => {$(
        impl<'a> From<&'a [$number]> for HostNumbers<'a> {
            fn from(numbers: &'a [$number]) -> Self {
                Self::$variant(numbers)
            }
        }

        impl<'a> From<&'a mut [$number]> for HostNumbersMut<'a> {
            fn from(numbers: &'a mut [$number]) -> Self {
                Self::$variant(numbers)
            }
        }
    )*};
}

from_slices! {
    f32, F32;
    f16, F16;
    bf16, Bf16;
}

/// A tensor in host memory, which is read where it lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HostView<'a> {
    numbers: HostNumbers<'a>,
    layout: Layout,
}

impl<'a> HostView<'a> {
    /// `numbers` in `layout`, whose offset counts elements from the first of them.
    ///
    /// # Errors
    /// Invalid argument (`numbers`) if there are fewer than the layout's
    /// [extent](Layout::extent).
    pub fn new(numbers: impl Into<HostNumbers<'a>>, layout: Layout) -> Result<Self> {
        let numbers = numbers.into();
        check_extent(&numbers, &layout)?;
        Ok(Self { numbers, layout })
    }

    /// How the numbers are stored.
    pub fn dtype(&self) -> DType {
        self.numbers.dtype()
    }

    /// Where they lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(super) fn numbers(&self) -> HostNumbers<'a> {
        self.numbers
    }
}

/// A tensor in host memory, which is written where it lies.
#[derive(Debug)]
pub struct HostViewMut<'a> {
    numbers: HostNumbersMut<'a>,
    layout: Layout,
}

impl<'a> HostViewMut<'a> {
    /// `numbers` in `layout`, whose offset counts elements from the first of them.
    ///
    /// # Errors
    /// Invalid argument (`numbers`) if there are fewer than the layout's
    /// [extent](Layout::extent); (`layout`) if its rows overlap.
    pub fn new(numbers: impl Into<HostNumbersMut<'a>>, layout: Layout) -> Result<Self> {
        let numbers = numbers.into();
        check_extent(&numbers.as_numbers(), &layout)?;
        ensure!(layout.is_disjoint(), "layout", "rows overlap each other in {layout:?}");
        Ok(Self { numbers, layout })
    }

    /// How the numbers are stored.
    pub fn dtype(&self) -> DType {
        self.numbers.as_numbers().dtype()
    }

    /// Where they lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(super) fn numbers(&mut self) -> &mut HostNumbersMut<'a> {
        &mut self.numbers
    }
}

fn check_extent(numbers: &HostNumbers<'_>, layout: &Layout) -> Result<()> {
    let (needs, has) = (layout.extent(), numbers.len());
    // An empty tensor needs none, wherever it would begin.
    ensure!(
        layout.elements() == 0 || has >= needs,
        "numbers",
        "expected at least {needs} for {layout:?}, got {has}"
    );
    Ok(())
}

/// Refuses a tensor of another type or of other heads and channels.
pub(super) fn check_tensor(
    argument: &'static str,
    (dtype, layout): (DType, &Layout),
    want: DType,
    heads: usize,
    dim: usize,
) -> Result<()> {
    let [_, has_heads, _, has_dim] = layout.dims();
    if (dtype, has_heads, has_dim) == (want, heads, dim) {
        return Ok(());
    }
    let message = format!(
        "expected {want} with {heads} heads of dim {dim}, got {dtype} with {has_heads} heads of dim {has_dim}"
    );
    Err(Error::argument_error(argument, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_argument() {
        let layout = Layout::heads_first(1, 2, 3, 4).unwrap();
        let mut numbers = [0.0_f32; 23];
        assert_eq!(HostView::new(&numbers[..], layout).unwrap_err().argument(), Some("numbers"));
        let refused = HostViewMut::new(&mut numbers[..], layout).unwrap_err();
        assert_eq!(refused.argument(), Some("numbers"));
        let shared = Layout::with_strides([1, 2, 3, 4], 0, [0, 0, 4]).unwrap();
        assert!(HostView::new(&numbers[..], shared).is_ok());
        let refused = HostViewMut::new(&mut numbers[..], shared).unwrap_err();
        assert_eq!(refused.argument(), Some("layout"));
        let halves = [f16::ZERO; 24];
        assert_eq!(HostView::new(&halves[..], layout).unwrap().dtype(), DType::F16);
    }

    #[test]
    fn empty_tensors_need_no_numbers() {
        let layout = Layout::heads_first(2, 2, 0, 4).unwrap();
        assert!(HostView::new(&[0.0_f32; 0][..], layout).is_ok());
        assert!(HostView::new(&[bf16::ZERO; 0][..], layout.with_offset(8)).is_ok());
    }
}
