//! The kernel that packs the rows of some blocks.

use super::params::{self, GatherParams};
use crate::runtime::program::{Binds, Program};
use crate::runtime::text::{self, Settings};

/// Copies of the rows of some blocks, packed and back (`shaders/attention/gather.wgsl`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gather;

impl Gather {
    /// The group of source and copy, after that of the call.
    pub(crate) const TENSORS_GROUP: usize = 1;

    /// Words per workgroup.
    pub(crate) const COPIES: usize = 64;
}

impl Program for Gather {
    fn label(&self) -> String {
        self.entry_point().to_owned()
    }

    fn entry_point(&self) -> &'static str {
        "gather"
    }

    fn source(&self) -> String {
        let mut settings = Settings::of(&[("COPIES", Self::COPIES)]);
        settings.constant("FLAG_SCATTER", params::FLAG_SCATTER);
        text::kernel(&self.label(), "attention", self.entry_point(), &settings)
    }

    fn groups(&self) -> Vec<Vec<Binds>> {
        let call = vec![Binds::CallParams(size_of::<GatherParams>()), Binds::CallTable(size_of::<u32>())];
        vec![call, vec![Binds::Read, Binds::Write]]
    }
}
