//! The kernel that rotates stored rows.

use super::params::{ROPE_STRIDE, RotateParams, RotateRun};
use super::variant::PositionsVariant;
use crate::layout::DType;
use crate::position::Pairing;
use crate::runtime::program::{Binds, Program};
use crate::runtime::text::{self, Settings};

/// The rotation of stored rows (`shaders/attention/rotate.wgsl`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rotate {
    pub(crate) storage: DType,
    pub(crate) pairing: Pairing,
    pub(crate) rotary_dim: usize,
}

impl Rotate {
    /// The group of the tensor, after that of the call.
    pub(crate) const TENSOR_GROUP: usize = 1;

    /// Rotations per workgroup, in each of its heads.
    pub(crate) const INVOCATIONS: usize = 64;

    /// Heads per workgroup, at most: they share the reading of rotations, which on lavapipe halves
    /// the time of one head each; 32 gain 10% more at best, and leave less to do at once.
    pub(crate) const HEADS_EACH: usize = 4;

    /// Quads that hold the channels of whole pairs.
    fn quads_each(&self) -> usize {
        match self.pairing {
            Pairing::Interleaved => 1,
            Pairing::Half => 2,
        }
    }

    /// Units of work per row and head.
    pub(crate) fn rotations(&self) -> usize {
        self.rotary_dim / 4 / self.quads_each()
    }
}

impl Program for Rotate {
    fn label(&self) -> String {
        let rope = Some((self.pairing, self.rotary_dim));
        format!("rotate_{}{}", self.storage, PositionsVariant { rope, ..Default::default() })
    }

    fn entry_point(&self) -> &'static str {
        "rotate"
    }

    fn source(&self) -> String {
        let quads = self.rotary_dim / 4;
        let mut settings = Settings::of(&[
            ("INVOCATIONS", Self::INVOCATIONS),
            ("HEADS_EACH", Self::HEADS_EACH),
            ("ROTATIONS", self.rotations()),
            ("ROPE_STRIDE", ROPE_STRIDE),
            ("ROTARY_QUADS", quads),
            ("HALF_QUADS", quads / 2),
        ]);
        settings.conditions(&[("ROPE", true), ("ROPE_HALF", self.pairing == Pairing::Half)]);
        settings.word("STORAGE", self.storage.name());
        text::kernel(&self.label(), "attention", self.entry_point(), &settings)
    }

    fn groups(&self) -> Vec<Vec<Binds>> {
        let call = vec![
            Binds::CallParams(size_of::<RotateParams>()),
            Binds::CallTable(size_of::<RotateRun>()),
            // The plan's position table.
            Binds::Read,
        ];
        vec![call, vec![Binds::Write]]
    }
}
