//! The kernels of the backward pass.

use super::params::{Axes, FLAG_FIRST, PHI_NEAR, PHI_WINDOWS, ROPE_STRIDE};
use super::programs::attention_call;
use super::shapes::TILE_ROWS;
use super::text;
use super::variant::{BiasVariant, PositionsVariant};
use crate::layout::DType;
use crate::position::Pairing;
use crate::runtime::capabilities::Capabilities;
use crate::runtime::program::{Binds, Program};
use crate::runtime::text::{Settings, kernel};

/// One kernel of the backward pass, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Pass {
    /// Queries as scores see them.
    Queries,
    /// What each row's pairs are compared with.
    Delta,
    /// The gradient of queries.
    Rows,
    /// The gradients of keys and values.
    Keys,
    /// Those of sinks and slopes, where heads have them.
    Heads,
}

impl Pass {
    pub(crate) const ALL: [Self; 5] = [Self::Queries, Self::Delta, Self::Rows, Self::Keys, Self::Heads];
}

/// What the inner loops of the backward pass take at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BackwardTile {
    /// Rows (or keys) that an invocation has.
    pub(crate) each: usize,
    /// Keys (or rows) of a step.
    pub(crate) step: usize,
    /// Invocations that share a row's channels.
    pub(crate) slices: usize,
}

impl BackwardTile {
    /// What every device takes.
    const SMALLEST: Self = Self { each: 1, step: 1, slices: 1 };

    pub(crate) fn invocations(self) -> usize {
        TILE_ROWS / self.each * self.slices
    }

    /// Bytes of workgroup memory.
    pub(crate) fn workgroup_bytes(self, head_dim: usize, value_dim: usize) -> usize {
        let tiles = 4 * self.step * (head_dim + value_dim) + 8 * self.step.next_multiple_of(2);
        let shares = 16 * self.slices * self.step * TILE_ROWS;
        tiles + if self.slices > 1 { shares } else { 0 }
    }
}

/// A kernel of the backward pass with what is rendered into its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Backward {
    pub(crate) pass: Pass,
    pub(crate) tile: BackwardTile,
    pub(crate) storage: DType,
    /// Of the output and its gradient.
    pub(crate) output: DType,
    pub(crate) head_dim: usize,
    pub(crate) value_dim: usize,
    pub(crate) positions: PositionsVariant,
    /// Whether calls may bring mask tensors.
    pub(crate) masked: bool,
}

impl Backward {
    /// The group of the tensors.
    pub(crate) const TENSORS_GROUP: usize = 2;

    /// The same with the tile shape that suits a device, or the smallest where that doesn't fit it.
    pub(crate) fn fitted(self, capabilities: &Capabilities) -> Self {
        let chosen = self.chosen(capabilities.is_software());
        let tile = chosen.tile;
        let bytes = tile.workgroup_bytes(self.head_dim, self.value_dim);
        let fits = bytes <= capabilities.max_workgroup_bytes as usize
            && tile.invocations() <= capabilities.max_workgroup_invocations as usize;
        if fits { chosen } else { Self { tile: BackwardTile::SMALLEST, ..self } }
    }

    /// With the tile shape for an adapter that is the CPU, or isn't. On CPUs several rows an
    /// invocation and one slice, since registers are memory there anyhow. On GPUs one row, of which
    /// each slice has at most 32 channels, so that the four rows of channels that
    /// `attention_backward_keys` keeps fit 128 registers.
    pub(crate) fn chosen(self, software: bool) -> Self {
        let dim = self.head_dim.max(self.value_dim);
        let turned = match self.positions.rope {
            Some((Pairing::Half, rotary)) => rotary / 8,
            _ => 0,
        };
        let quads = [self.head_dim / 4, self.value_dim / 4, turned];
        let divides = |slices: usize| quads.iter().all(|quads| quads.is_multiple_of(slices));
        let tile = if software {
            let each = match (self.pass, dim) {
                (Pass::Keys, ..=96) | (_, 97..=128) => 2,
                (_, ..=96) => 4,
                _ => 1,
            };
            BackwardTile { each, step: 4, slices: 1 }
        } else {
            let fits = |slices: &usize| divides(*slices) && dim / slices <= 32;
            let slices = [1, 2, 4].into_iter().find(fits).or([4, 2].into_iter().find(|&n| divides(n)));
            let slices = slices.unwrap_or(1);
            BackwardTile { each: 1, step: if slices > 2 { 2 } else { 4 }, slices }
        };
        Self { tile, ..self }
    }
}

impl Backward {
    /// What of the positions the kernel's text depends on.
    fn read_positions(&self) -> PositionsVariant {
        match self.pass {
            Pass::Delta | Pass::Heads => PositionsVariant::default(),
            Pass::Queries => PositionsVariant { rope: self.positions.rope, ..Default::default() },
            Pass::Rows | Pass::Keys => self.positions,
        }
    }
}

impl Program for Backward {
    fn label(&self) -> String {
        let Self { tile: BackwardTile { each, step, slices }, storage, output, head_dim, value_dim, .. } =
            self;
        let (name, positions) = (self.entry_point(), self.read_positions());
        let mask = if self.masked { "_mask" } else { "" };
        match self.pass {
            Pass::Queries => format!("{name}_{storage}_d{head_dim}_v{value_dim}{positions}"),
            Pass::Delta => format!("{name}_{output}_d{head_dim}_v{value_dim}"),
            Pass::Heads => format!("{name}_d{head_dim}_v{value_dim}"),
            Pass::Rows | Pass::Keys => {
                format!(
                    "{name}_r{each}_k{step}_s{slices}_{storage}_d{head_dim}_v{value_dim}{positions}{mask}"
                )
            }
        }
    }

    fn entry_point(&self) -> &'static str {
        match self.pass {
            Pass::Queries => "attention_backward_queries",
            Pass::Delta => "attention_backward_delta",
            Pass::Rows => "attention_backward_rows",
            Pass::Keys => "attention_backward_keys",
            Pass::Heads => "attention_backward_heads",
        }
    }

    fn source(&self) -> String {
        let Self { tile, head_dim, value_dim, .. } = *self;
        let positions = self.read_positions();
        let BackwardTile { each, step, slices } = tile;
        let (head_quads, value_quads) = (head_dim / 4, value_dim / 4);
        let rotary = positions.rope.map_or(0, |(_, dim)| dim / 4);
        let half = matches!(positions.rope, Some((Pairing::Half, _)));
        let mut settings = Settings::of(&[
            ("HEAD_QUADS", head_quads),
            ("VALUE_QUADS", value_quads),
            ("ROWS", TILE_ROWS),
            ("EACH", each),
            ("STEP", step),
            ("SLICES", slices),
            ("LANES", TILE_ROWS / each),
            ("INVOCATIONS", tile.invocations()),
            ("OWN_HEAD_QUADS", head_quads / slices),
            ("OWN_VALUE_QUADS", value_quads / slices),
        ]);
        let some = |size: usize| if positions.any() { size } else { 0 };
        settings.optional_sizes(&[
            ("ROPE_STRIDE", some(ROPE_STRIDE)),
            ("PHI_NEAR", some(PHI_NEAR)),
            ("PHI_WINDOWS", some(PHI_WINDOWS)),
            ("ROTARY_QUADS", rotary),
            ("HALF_QUADS", if half { rotary / 2 } else { 0 }),
            // Numbers of φ are taken one by one.
            ("WINDOWS", 0),
        ]);
        text::flags(&mut settings);
        settings.constant("FLAG_FIRST", FLAG_FIRST);
        settings.conditions(&text::position_conditions(positions));
        settings.conditions(&[("SHARED", slices > 1), ("MASKED", self.masked)]);
        settings.word("STORAGE", self.storage.name());
        settings.word("OUTPUT", self.output.name());
        kernel(&self.label(), "attention", self.entry_point(), &settings)
    }

    fn groups(&self) -> Vec<Vec<Binds>> {
        let (read, write) = (Binds::Read, Binds::Write);
        let mut tensors = vec![Binds::Uniform(size_of::<Axes>())];
        tensors.extend(match self.pass {
            Pass::Queries => vec![read, write],
            Pass::Delta => vec![read, read, read, read, write],
            // The gradient of a slope is written beside what is read of its row.
            Pass::Rows if self.positions.bias != BiasVariant::None => vec![write, read, read, write],
            Pass::Rows => vec![read, read, read, write],
            Pass::Keys => vec![read, read, read, write, write],
            Pass::Heads => vec![read, write, write],
        });
        vec![attention_call(), vec![read], tensors]
    }
}

/// The two long kernels as GPUs get them, to count instructions of, with the multiply-adds of a
/// lane for each key (or row).
pub(crate) fn counted() -> Vec<(Backward, usize)> {
    let mut counted = Vec::new();
    for storage in [DType::F32, DType::F16] {
        for dim in [64, 128] {
            for (pass, products) in [(Pass::Rows, 3), (Pass::Keys, 4)] {
                let positions = PositionsVariant::default();
                let (tile, output) = (BackwardTile::SMALLEST, DType::F32);
                let (head_dim, value_dim) = (dim, dim);
                let masked = false;
                let program =
                    Backward { pass, tile, storage, output, head_dim, value_dim, positions, masked };
                let program = program.chosen(false);
                counted.push((program, products * dim / program.tile.slices));
            }
        }
    }
    counted
}

/// Every kernel of the backward pass, to validate: with and without positions and mask tensors,
/// each storage, rows shared and not.
pub(crate) fn all() -> Vec<Backward> {
    let none = PositionsVariant::default();
    let rope = |pairing, dim| PositionsVariant { rope: Some((pairing, dim)), ..none };
    let biased = |bias, factor| PositionsVariant { bias, factor, ..none };
    let tile = |each, step, slices| BackwardTile { each, step, slices };
    let mut all = Vec::new();
    for (storage, dims, tile, positions) in [
        (DType::F32, [64, 64], tile(2, 4, 1), none),
        (DType::F32, [64, 64], tile(4, 4, 1), none),
        (DType::F32, [64, 64], tile(1, 4, 2), none),
        (DType::F16, [64, 64], tile(1, 4, 2), rope(Pairing::Half, 64)),
        (DType::F32, [128, 128], tile(1, 2, 4), none),
        (DType::F32, [128, 128], tile(2, 4, 1), rope(Pairing::Half, 128)),
        (DType::Bf16, [80, 64], tile(2, 4, 1), rope(Pairing::Interleaved, 32)),
        (DType::F32, [64, 64], tile(2, 4, 1), biased(BiasVariant::Harmonic, false)),
        (DType::F32, [64, 64], tile(2, 4, 1), biased(BiasVariant::CappedHarmonic, true)),
        (DType::F32, [64, 64], tile(1, 4, 2), biased(BiasVariant::Linear, true)),
        (DType::F32, [64, 64], tile(2, 4, 1), biased(BiasVariant::Log, false)),
        (DType::F16, [256, 256], tile(1, 2, 4), none),
        (DType::F32, [4, 12], BackwardTile::SMALLEST, none),
    ] {
        let [head_dim, value_dim] = dims;
        let masked = false;
        let of =
            |pass| Backward { pass, tile, storage, output: storage, head_dim, value_dim, positions, masked };
        all.extend(Pass::ALL.map(of));
        let dense = positions == none;
        let long = Pass::ALL.map(of).into_iter().filter(|one| matches!(one.pass, Pass::Rows | Pass::Keys));
        all.extend(long.filter(|_| dense).map(|program| Backward { masked: true, ..program }));
    }
    // The short ones don't depend on everything: each text once.
    let mut labels = std::collections::BTreeSet::new();
    all.retain(|program| labels.insert(program.label()));
    all
}
