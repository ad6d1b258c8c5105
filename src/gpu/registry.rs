//! The programs that a device may be asked to compile: each kernel with what is rendered into its text.

use super::choice::{Kernel, TILE_ROWS};
use super::kernel::{Binds, Program};
use super::params::{
    self, CACHE_RUNGS, CacheLayout, GatherParams, MergeParams, MergeSequence, Move, MoveParams, Params,
    RotateParams, RotateRun, ScheduleParams, ScheduleSequence, SequenceEntry,
};
use super::shaders;
use crate::layout::DType;
use crate::position::Pairing;
use crate::random;
use crate::sampling::GpuRule;

/// A kernel with everything that is rendered into its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Variant {
    pub(crate) kernel: Kernel,
    pub(crate) storage: DType,
    pub(crate) output: DType,
    pub(crate) head_dim: usize,
    pub(crate) value_dim: usize,
    pub(crate) positions: PositionsVariant,
    /// `None`: keys and values are tensors.
    pub(crate) cache: Option<CacheVariant>,
}

/// What of a staircase cache is rendered into a kernel's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CacheVariant {
    /// The widths of the ladders of keys and of values, beside the 16 bits of the residual: bit b is set where there is a rung of b bits.
    pub(crate) widths: [u32; 2],
    /// G.
    pub(crate) group: usize,
    /// Whether keys are stored before rotation.
    pub(crate) keys_turn: bool,
}

impl CacheVariant {
    /// Tokens that a kernel takes from a cache at once.
    pub(crate) const KEYS: usize = 4;
}

impl std::fmt::Display for CacheVariant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("_cache")?;
        for (side, widths) in ["k", "v"].into_iter().zip(self.widths) {
            f.write_str(side)?;
            for bits in crate::cache::quantize::WIDTHS.into_iter().filter(|bits| widths >> bits & 1 == 1) {
                write!(f, "{bits}")?;
            }
        }
        write!(f, "_g{}{}", self.group, if self.keys_turn { "_unturned" } else { "" })
    }
}

/// What of positions is rendered into a kernel's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct PositionsVariant {
    /// The rotation: how channels pair, and how many of them turn.
    pub(crate) rope: Option<(Pairing, usize)>,
    pub(crate) bias: BiasVariant,
    /// Whether scores have a factor that depends on the lag.
    pub(crate) factor: bool,
}

/// Where a kernel takes φ from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum BiasVariant {
    #[default]
    None,
    /// It is the lag.
    Linear,
    /// A logarithm.
    Log,
    /// Harmonic numbers: a table near by, a formula far off.
    Harmonic,
    /// Harmonic numbers up to a lag, then flat.
    CappedHarmonic,
}

impl PositionsVariant {
    /// Whether there are any.
    pub(crate) fn any(&self) -> bool {
        *self != Self::default()
    }
}

impl std::fmt::Display for PositionsVariant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.rope {
            Some((Pairing::Interleaved, dim)) => write!(f, "_interleaved{dim}")?,
            Some((Pairing::Half, dim)) => write!(f, "_half{dim}")?,
            None => {}
        }
        f.write_str(match self.bias {
            BiasVariant::None => "",
            BiasVariant::Linear => "_linear",
            BiasVariant::Log => "_log",
            BiasVariant::Harmonic => "_harmonic",
            BiasVariant::CappedHarmonic => "_capped",
        })?;
        f.write_str(if self.factor { "_factor" } else { "" })
    }
}

/// The bind groups of the attention kernels, after that of the call.
pub(crate) const TABLES_GROUP: usize = 1;
pub(crate) const TENSORS_GROUP: usize = 2;
/// Of a cache.
pub(crate) const ARENA_GROUP: usize = 3;

impl Program for Variant {
    fn label(&self) -> String {
        let Self { kernel, storage, output, head_dim, value_dim, positions, cache } = self;
        let cache = cache.map(|cache| cache.to_string()).unwrap_or_default();
        match kernel {
            // It writes states, whatever the output.
            Kernel::Decode(_) => format!("{kernel}_{storage}_d{head_dim}_v{value_dim}{positions}{cache}"),
            _ => format!("{kernel}_{storage}_{output}_d{head_dim}_v{value_dim}{positions}{cache}"),
        }
    }

    fn entry_point(&self) -> &'static str {
        self.kernel.name()
    }

    fn source(&self) -> String {
        shaders::attention(self, 0)
    }

    /// Those of `shaders/shared/params.wgsl`, `tensors.wgsl` and `arena.wgsl`.
    fn groups(&self) -> Vec<Vec<Binds>> {
        let (read, write) = (Binds::Read, Binds::Write);
        let mut tensors = vec![read];
        if self.cache.is_none() {
            tensors.extend([read, read]);
        }
        tensors.push(write);
        if !matches!(self.kernel, Kernel::Decode(_)) {
            tensors.push(write);
        }
        let mut groups = vec![attention_call(), vec![read, read], tensors];
        if self.cache.is_some() {
            groups.push(vec![read, read, Binds::Uniform(size_of::<CacheLayout>())]);
        }
        groups
    }
}

impl Variant {
    /// Quads of a block in which the kernel can take keys and values, if rows begin at multiples of it: the largest power of two that divides rows. None where that is 1, or
    /// where they pass through workgroup memory.
    pub(crate) fn block_quads(&self) -> Option<usize> {
        let direct = matches!(self.kernel, Kernel::Tiled(tile) if !tile.is_staged());
        let parts = match self.kernel {
            Kernel::Tiled(tile) => tile.parts(),
            _ => 1,
        };
        let each = [self.head_dim, self.value_dim].map(|dim| (dim / 4 / parts).trailing_zeros());
        let power = each[0].min(each[1]);
        (direct && power > 0).then_some(1 << power)
    }
}

/// A variant that takes keys and values in blocks ([`Variant::block_quads`]). Its bindings are those of the variant itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blocks(pub(crate) Variant);

impl Program for Blocks {
    fn label(&self) -> String {
        format!("{}_blocks", self.0.label())
    }

    fn entry_point(&self) -> &'static str {
        self.0.entry_point()
    }

    fn source(&self) -> String {
        shaders::attention(&self.0, self.0.block_quads().unwrap_or(0))
    }

    fn groups(&self) -> Vec<Vec<Binds>> {
        self.0.groups()
    }
}

/// What changes with each call of attention.
fn attention_call() -> Vec<Binds> {
    vec![Binds::CallParams(size_of::<Params>()), Binds::CallTable(size_of::<SequenceEntry>())]
}

/// The rows of which attention_decode has computed shares (`shaders/merge_splits.wgsl`).
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
        shaders::merge_splits(self)
    }

    fn groups(&self) -> Vec<Vec<Binds>> {
        vec![attention_call(), vec![Binds::Read, Binds::Write, Binds::Write]]
    }
}

/// The merge of attention states (`shaders/merge.wgsl`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Merge {
    pub(crate) output: DType,
    /// Whether the spread of independent rounds is kept.
    pub(crate) spread: bool,
}

impl Merge {
    /// The group of the tensors, after that of the call.
    pub(crate) const TENSORS_GROUP: usize = 1;

    /// f32 values per row of the running state.
    pub(crate) fn state_row(&self, value_dim: usize) -> usize {
        value_dim * (1 + usize::from(self.spread)) + 4
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
        let values = [
            ("ROWS", TILE_ROWS as u32),
            ("SPREAD", u32::from(self.spread)),
            ("FLAG_LSE", params::FLAG_LSE),
            ("FLAG_FIRST", params::FLAG_FIRST),
            ("FLAG_MEAN", params::FLAG_MEAN),
            ("FLAG_ERROR", params::FLAG_ERROR),
        ];
        let pieces = [shaders::store_piece(self.output), include_str!("../../shaders/merge.wgsl")];
        shaders::plain(&self.label(), &values, &pieces)
    }

    fn groups(&self) -> Vec<Vec<Binds>> {
        let call =
            vec![Binds::CallParams(size_of::<MergeParams>()), Binds::CallTable(size_of::<MergeSequence>())];
        vec![call, vec![Binds::Read, Binds::Read, Binds::Write, Binds::Write, Binds::Write, Binds::Write]]
    }
}

/// Copies of the rows of some blocks, packed and back (`shaders/gather.wgsl`).
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
        let values = [("COPIES", Self::COPIES as u32), ("FLAG_SCATTER", params::FLAG_SCATTER)];
        shaders::plain(&self.label(), &values, &[include_str!("../../shaders/gather.wgsl")])
    }

    fn groups(&self) -> Vec<Vec<Binds>> {
        let call = vec![Binds::CallParams(size_of::<GatherParams>()), Binds::CallTable(size_of::<u32>())];
        vec![call, vec![Binds::Read, Binds::Write]]
    }
}

/// The rotation of stored rows (`shaders/rotate.wgsl`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rotate {
    pub(crate) storage: DType,
    pub(crate) pairing: Pairing,
    pub(crate) rotary_dim: usize,
}

impl Rotate {
    /// The group of the tensor and the table, after that of the call.
    pub(crate) const TENSOR_GROUP: usize = 1;

    /// Turns per workgroup, in each of its heads.
    pub(crate) const INVOCATIONS: usize = 64;

    /// Heads per workgroup, at most: they share the reading of rotations, which on lavapipe halves the time of one head each; 32 gain 10% more at best, and
    /// leave less to do at once.
    pub(crate) const HEADS_EACH: usize = 4;

    /// Quads that hold the channels of whole pairs.
    fn quads_each(&self) -> usize {
        match self.pairing {
            Pairing::Interleaved => 1,
            Pairing::Half => 2,
        }
    }

    /// Units of work per row and head.
    pub(crate) fn turns(&self) -> usize {
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
        shaders::rotate(self)
    }

    fn groups(&self) -> Vec<Vec<Binds>> {
        let call =
            vec![Binds::CallParams(size_of::<RotateParams>()), Binds::CallTable(size_of::<RotateRun>())];
        vec![call, vec![Binds::Write, Binds::Read]]
    }
}

/// One of the passes that draw a schedule. All have the same bindings, so that they share their bind groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Draw {
    /// `shaders/schedule_count.wgsl`.
    Count(GpuRule),
    /// `shaders/schedule_scan.wgsl`.
    Scan,
    /// `shaders/schedule_fill.wgsl`.
    Fill(GpuRule),
}

impl Draw {
    /// The group of the distance table and the lists, after that of the call.
    pub(crate) const TABLES_GROUP: usize = 1;

    fn rule(&self) -> Option<GpuRule> {
        match *self {
            Draw::Count(rule) | Draw::Fill(rule) => Some(rule),
            Draw::Scan => None,
        }
    }
}

impl Program for Draw {
    fn label(&self) -> String {
        let rule = match self.rule() {
            Some(GpuRule::Systematic) => "_systematic",
            Some(GpuRule::Bernoulli) => "_bernoulli",
            None => "",
        };
        format!("{}{rule}", self.entry_point())
    }

    fn entry_point(&self) -> &'static str {
        match self {
            Draw::Count(_) => "schedule_count",
            Draw::Scan => "schedule_scan",
            Draw::Fill(_) => "schedule_fill",
        }
    }

    fn source(&self) -> String {
        let values = [
            ("ROWS", TILE_ROWS as u32),
            ("FLAG_CAUSAL", params::FLAG_CAUSAL),
            ("PCG_MULTIPLIER", random::PCG_MULTIPLIER),
            ("PCG_INCREMENT", random::PCG_INCREMENT),
            ("PCG_OUTPUT", random::PCG_OUTPUT),
            ("PURPOSE", self.rule().map_or(0, GpuRule::purpose)),
        ];
        let rule = match self.rule() {
            Some(GpuRule::Systematic) => include_str!("../../shaders/shared/draw_systematic.wgsl"),
            Some(GpuRule::Bernoulli) => include_str!("../../shaders/shared/draw_bernoulli.wgsl"),
            None => "",
        };
        let kernel = match self {
            Draw::Count(_) => include_str!("../../shaders/schedule_count.wgsl"),
            Draw::Scan => include_str!("../../shaders/schedule_scan.wgsl"),
            Draw::Fill(_) => include_str!("../../shaders/schedule_fill.wgsl"),
        };
        let pieces = [include_str!("../../shaders/shared/schedule.wgsl"), rule, kernel];
        shaders::plain(&self.label(), &values, &pieces)
    }

    fn groups(&self) -> Vec<Vec<Binds>> {
        let call = vec![
            Binds::CallParams(size_of::<ScheduleParams>()),
            Binds::CallTable(size_of::<ScheduleSequence>()),
        ];
        vec![call, vec![Binds::Read, Binds::Write]]
    }
}

/// What moves tokens of a staircase cache to where they are to lie. All have the same bindings, so that they share their bind groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CacheMove {
    /// `shaders/append.wgsl`, for input of this type.
    Append(DType),
    /// `shaders/quantize.wgsl`, for input of this type.
    Quantize(DType),
    /// `shaders/step_down.wgsl`.
    StepDown,
}

impl CacheMove {
    /// The group of the arena, after that of the call.
    pub(crate) const ARENA_GROUP: usize = 1;
    /// The group of appended keys and values.
    pub(crate) const INPUT_GROUP: usize = 2;

    /// Invocations of a workgroup.
    pub(crate) const INVOCATIONS: usize = 64;

    fn input(&self) -> Option<DType> {
        match *self {
            CacheMove::Append(dtype) | CacheMove::Quantize(dtype) => Some(dtype),
            CacheMove::StepDown => None,
        }
    }
}

impl Program for CacheMove {
    fn label(&self) -> String {
        let name = self.entry_point();
        self.input().map_or(name.to_owned(), |dtype| format!("{name}_{dtype}"))
    }

    fn entry_point(&self) -> &'static str {
        match self {
            CacheMove::Append(_) => "append",
            CacheMove::Quantize(_) => "quantize",
            CacheMove::StepDown => "step_down",
        }
    }

    fn source(&self) -> String {
        let values = [
            ("INVOCATIONS", Self::INVOCATIONS as u32),
            ("CACHE_RUNGS", CACHE_RUNGS as u32),
            ("FLAG_VALUES", params::FLAG_VALUES),
            ("FLAG_COUNT", params::FLAG_COUNT),
        ];
        let halves = match self.input() {
            Some(DType::F32) => include_str!("../../shaders/shared/halves_f32.wgsl"),
            Some(DType::F16) => include_str!("../../shaders/shared/halves_f16.wgsl"),
            Some(DType::Bf16) => include_str!("../../shaders/shared/halves_bf16.wgsl"),
            None => "",
        };
        let rounding = match self.input() {
            Some(DType::F32 | DType::Bf16) => include_str!("../../shaders/shared/round_to_half.wgsl"),
            _ => "",
        };
        let rows = self.input().map_or("", |_| include_str!("../../shaders/shared/rows.wgsl"));
        let kernel = match self {
            CacheMove::Append(_) => include_str!("../../shaders/append.wgsl"),
            CacheMove::Quantize(_) => include_str!("../../shaders/quantize.wgsl"),
            CacheMove::StepDown => include_str!("../../shaders/step_down.wgsl"),
        };
        let pieces = [
            include_str!("../../shaders/shared/cache.wgsl"),
            include_str!("../../shaders/shared/moves.wgsl"),
            rounding,
            halves,
            rows,
            kernel,
        ];
        shaders::plain(&self.label(), &values, &pieces)
    }

    fn groups(&self) -> Vec<Vec<Binds>> {
        vec![
            vec![Binds::CallParams(size_of::<MoveParams>()), Binds::CallTable(size_of::<Move>())],
            vec![Binds::Write, Binds::Write, Binds::Uniform(size_of::<CacheLayout>()), Binds::Write],
            vec![Binds::Read, Binds::Read],
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::super::choice::Matrix;
    use super::*;

    /// What a kernel says that it needs is what its text declares.
    #[test]
    fn workgroup_memory_is_what_the_text_declares() {
        for (edge, padded) in [(16, true), (16, false), (8, true), (8, false)] {
            for emulated in [true, false] {
                for dim in [4, 20, 64, 80, 128, 256] {
                    let kernel = Kernel::Matrix(Matrix::new(edge, padded, emulated).unwrap());
                    let (storage, output) = (DType::F16, DType::F16);
                    let positions = PositionsVariant::default();
                    let variant = Variant {
                        kernel,
                        storage,
                        output,
                        head_dim: dim,
                        value_dim: dim,
                        positions,
                        cache: None,
                    };
                    let module = naga::front::wgsl::parse_str(&variant.source()).unwrap();
                    let shared = module
                        .global_variables
                        .iter()
                        .filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup);
                    let bytes: u32 =
                        shared.map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx())).sum();
                    assert_eq!(bytes as usize, kernel.workgroup_bytes(dim, dim), "{kernel}, D = {dim}");
                }
            }
        }
    }
}
