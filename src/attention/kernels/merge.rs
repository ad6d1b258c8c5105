//! The kernels that merge attention states: splits of one call's keys, and rounds.

use super::params::{self, MergeParams, MergeSequence};
use super::programs::attention_call;
use super::shapes::{Decode, TILE_ROWS};
use crate::layout::DType;
use crate::runtime::program::{Binds, Program};
use crate::runtime::text::{self, Settings};

/// The rows of which attention_decode has computed splits (`shaders/attention/merge_splits.wgsl`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MergeSplits {
    pub(crate) output: DType,
    pub(crate) value_dim: usize,
}

impl MergeSplits {
    /// The group of the states and results, after that of the call.
    pub(crate) const TENSORS_GROUP: usize = 1;
}

impl Program for MergeSplits {
    fn label(&self) -> String {
        format!("merge_splits_{}_v{}", self.output, self.value_dim)
    }

    fn entry_point(&self) -> &'static str {
        "merge_splits"
    }

    fn source(&self) -> String {
        let mut settings = Settings::of(&[
            ("ROWS", TILE_ROWS),
            ("VALUE_QUADS", self.value_dim / 4),
            ("STATE_QUADS", Decode::state_quads(self.value_dim)),
        ]);
        settings.constant("FLAG_LSE", params::FLAG_LSE);
        settings.constant("FLAG_SINKS", params::FLAG_SINKS);
        settings.constant("NO_TABLE", params::NO_TABLE);
        settings.word("OUTPUT", self.output.name());
        text::kernel(&self.label(), "attention", self.entry_point(), &settings)
    }

    fn groups(&self) -> Vec<Vec<Binds>> {
        vec![attention_call(), vec![Binds::Read, Binds::Write, Binds::Write]]
    }
}

/// The merge of attention states (`shaders/attention/merge.wgsl`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Merge {
    pub(crate) output: DType,
    /// Whether the spread of independent rounds is kept.
    pub(crate) spread: bool,
}

impl Merge {
    /// The group of the tensors, after that of the call.
    pub(crate) const TENSORS_GROUP: usize = 1;

    /// Rows of as many channels as the output has, which a row of the running state begins with: Ô,
    /// and M where there is a spread.
    fn state_means(&self) -> usize {
        1 + usize::from(self.spread)
    }

    /// The quads behind them: of ln W, B/W² and q.
    const STATE_SUMS: usize = 1;

    /// f32 values per row of the running state.
    pub(crate) fn state_row(&self, value_dim: usize) -> usize {
        self.state_means() * value_dim + 4 * Self::STATE_SUMS
    }
}

impl Program for Merge {
    fn label(&self) -> String {
        format!("merge_{}{}", self.output, if self.spread { "_spread" } else { "" })
    }

    fn entry_point(&self) -> &'static str {
        "merge"
    }

    fn source(&self) -> String {
        let mut settings = Settings::of(&[
            ("ROWS", TILE_ROWS),
            ("STATE_MEANS", self.state_means()),
            ("STATE_SUMS", Self::STATE_SUMS),
        ]);
        settings.conditions(&[("SPREAD", self.spread)]);
        for (name, flag) in [
            ("FLAG_LSE", params::FLAG_LSE),
            ("FLAG_FIRST", params::FLAG_FIRST),
            ("FLAG_MEAN", params::FLAG_MEAN),
            ("FLAG_ERROR", params::FLAG_ERROR),
            ("FLAG_SINKS", params::FLAG_SINKS),
        ] {
            settings.constant(name, flag);
        }
        settings.word("OUTPUT", self.output.name());
        text::kernel(&self.label(), "attention", self.entry_point(), &settings)
    }

    fn groups(&self) -> Vec<Vec<Binds>> {
        let call =
            vec![Binds::CallParams(size_of::<MergeParams>()), Binds::CallTable(size_of::<MergeSequence>())];
        let (read, write) = (Binds::Read, Binds::Write);
        vec![call, vec![read, read, write, write, write, write, read]]
    }
}
