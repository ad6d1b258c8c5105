//! The kernels of word2vec.

use super::params::{BatchParams, FoldParams, UpdateParams};
use crate::runtime::program::{Binds, INVOCATIONS, Program};
use crate::runtime::text::{self, Settings};
use crate::word2vec::batch::RUN;
use crate::word2vec::options::{Architecture, Options, SHARED_STEP};

/// Gradients of a row that an invocation adds up alone; longer lists are folded in stretches.
pub(crate) const STRETCH: usize = 64;

/// Numbers of a row in a batch: the row, where its gradients begin, how many there are, and the
/// bits of what their sum is capped by.
pub(crate) const ROW_NUMBERS: usize = 4;

/// Numbers of a stretch in a batch: where it begins, and how many gradients it has.
pub(crate) const STRETCH_NUMBERS: usize = 2;

/// Rows that a workgroup updates.
const UPDATES: usize = 32;

/// A weight of this size shows that a training diverges.
const DIVERGED: f32 = 1000.0;

/// Workgroup memory that every device has, in bytes.
const WORKGROUP_BYTES: usize = 16_384;

/// What the texts depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    /// Whether the texts are those of skip-grams, which train pairs of words.
    pub(crate) pairs: bool,
    /// Quads of a row.
    pub(crate) quads: usize,
    pub(crate) window: usize,
    /// Negatives of a run.
    pub(crate) shared: usize,
    negative: usize,
}

impl Form {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            pairs: options.architecture == Architecture::SkipGram,
            quads: options.dimension.div_ceil(4),
            window: options.window,
            shared: options.shared,
            negative: options.negative,
        }
    }

    /// Tokens that the windows of a centre can reach, with itself.
    pub(crate) fn ring(self) -> usize {
        2 * self.window + 1
    }

    /// Rows that pass through workgroup memory at a time: a power of two, which divides
    /// [`SHARED_STEP`].
    fn tile(self) -> usize {
        let most = (WORKGROUP_BYTES / (16 * self.quads)).clamp(1, SHARED_STEP);
        1 << most.ilog2()
    }

    /// Workgroups that share a row where an invocation has a quad, and their invocations.
    fn slices(self) -> (usize, usize) {
        let slices = self.quads.div_ceil(INVOCATIONS as usize);
        (slices, self.quads.div_ceil(slices).next_multiple_of(8))
    }
}

/// What is added up over windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sum {
    Targets,
    Means,
    Spread,
}

/// What trains. All programs have one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word2vec {
    /// `shaders/word2vec/word2vec_windows.wgsl`.
    Windows(Form, Sum),
    /// `shaders/word2vec/word2vec_inputs.wgsl`.
    Inputs(Form),
    /// `shaders/word2vec/word2vec_negatives.wgsl`.
    Negatives(Form),
    /// `shaders/word2vec/word2vec_fold.wgsl`.
    Fold(Form),
    /// `shaders/word2vec/word2vec_update.wgsl`.
    Update(Form),
}

impl Word2vec {
    fn form(self) -> Form {
        match self {
            Self::Windows(form, _)
            | Self::Inputs(form)
            | Self::Negatives(form)
            | Self::Fold(form)
            | Self::Update(form) => form,
        }
    }

    fn lanes(self) -> usize {
        match self {
            Self::Windows(..) | Self::Inputs(_) => RUN,
            Self::Negatives(_) => SHARED_STEP,
            Self::Fold(form) => form.slices().1,
            Self::Update(_) => UPDATES,
        }
    }

    /// Workgroups for so many centres or tokens, items, negatives, stretches, or rows.
    pub(crate) fn workgroups(self, count: usize) -> u64 {
        let workgroups = match self {
            Self::Fold(form) => count * form.slices().0,
            _ => count.div_ceil(self.lanes()),
        };
        workgroups as u64
    }
}

impl Program for Word2vec {
    fn label(&self) -> String {
        let Form { pairs, quads, window, shared, negative } = self.form();
        let name = self.entry_point();
        let kind = if pairs { "pairs" } else { "bags" };
        match self {
            Self::Windows(_, Sum::Targets) => format!("{name}_targets_{quads}_{window}"),
            Self::Windows(_, Sum::Means) => format!("{name}_means_{quads}_{window}"),
            Self::Windows(_, Sum::Spread) => format!("{name}_spread_{quads}_{window}_{shared}"),
            Self::Inputs(_) => format!("{name}_{kind}_{quads}_{window}_{shared}_{negative}"),
            Self::Negatives(_) => format!("{name}_{kind}_{quads}_{window}_{shared}"),
            Self::Fold(_) | Self::Update(_) => format!("{name}_{quads}"),
        }
    }

    fn entry_point(&self) -> &'static str {
        match self {
            Self::Windows(..) => "word2vec_windows",
            Self::Inputs(_) => "word2vec_inputs",
            Self::Negatives(_) => "word2vec_negatives",
            Self::Fold(_) => "word2vec_fold",
            Self::Update(_) => "word2vec_update",
        }
    }

    fn source(&self) -> String {
        let form = self.form();
        let mut settings = Settings::of(&[
            ("LANES", self.lanes()),
            ("QUADS", form.quads),
            ("SLICES", form.slices().0),
            ("PAIRS", usize::from(form.pairs)),
            ("WINDOW", form.window),
            ("RING", form.ring()),
            ("RUN", RUN),
            ("SHARED", form.shared),
            ("TILE", form.tile()),
            ("STRETCH", STRETCH),
            ("ROW_NUMBERS", ROW_NUMBERS),
            ("STRETCH_NUMBERS", STRETCH_NUMBERS),
        ]);
        settings.constant("DIVERGED_BITS", DIVERGED.to_bits());
        // What each of the shared negatives counts, so that a pair has as many as was asked for.
        settings.real("NEGATIVES_EACH", form.negative as f32 / form.shared as f32);
        let is = |sum: Sum| matches!(*self, Self::Windows(_, own) if own == sum);
        settings.conditions(&[
            ("TARGETS", is(Sum::Targets)),
            ("MEANS", is(Sum::Means)),
            ("SPREAD", is(Sum::Spread)),
        ]);
        text::kernel(&self.label(), "word2vec", self.entry_point(), &settings)
    }

    fn groups(&self) -> Vec<Vec<Binds>> {
        use Binds::{Read, Uniform, Write};
        let batch = Uniform(size_of::<BatchParams>());
        vec![match self {
            Self::Windows(_, Sum::Targets) => vec![batch, Read, Read, Write, Read],
            Self::Windows(_, Sum::Means) => vec![batch, Read, Read, Write],
            Self::Windows(_, Sum::Spread) => vec![batch, Read, Write],
            Self::Inputs(_) => vec![batch, Read, Read, Read, Write, Write],
            Self::Negatives(_) => vec![batch, Read, Read, Read, Write],
            Self::Fold(_) => vec![Uniform(size_of::<FoldParams>()), Read, Write],
            Self::Update(_) => vec![Uniform(size_of::<UpdateParams>()), Read, Read, Write, Write],
        }]
    }
}

/// Every kernel, as the defaults have it and with long vectors and wide windows.
pub(crate) fn all() -> Vec<Word2vec> {
    let mut all = Vec::new();
    for (quads, window, shared) in [(25, 5, 32), (75, 20, 64)] {
        for pairs in [true, false] {
            let form = Form { pairs, quads, window, shared, negative: 5 };
            all.extend([Word2vec::Inputs(form), Word2vec::Negatives(form)]);
            match pairs {
                true => all.push(Word2vec::Windows(form, Sum::Targets)),
                false => all.extend([Sum::Means, Sum::Spread].map(|sum| Word2vec::Windows(form, sum))),
            }
            if pairs {
                all.extend([Word2vec::Fold(form), Word2vec::Update(form)]);
            }
        }
    }
    all
}
