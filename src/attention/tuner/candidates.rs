//! The kernels among which a tuner chooses, and the space of their parameters.

use std::cmp::Ordering;
use std::collections::HashMap;

use crate::attention::kernels::rule::Task;
use crate::attention::kernels::shapes::{Decode, Kernel, Matrix, Tile};
use crate::error::Result;
use crate::runtime::capabilities::Capabilities;
use crate::search::{Parameter, Point, Space, Value};

/// The kernels that a device can run for a class of shapes.
#[derive(Debug)]
pub(super) struct Candidates {
    /// The rule's choice first, then those without parameters to search, then those that are known
    /// to be good somewhere, then the others.
    all: Vec<Kernel>,
    /// How many of them a search begins with: all before the others.
    starts: usize,
    /// Of the parameters of those that have some, with the values that occur.
    space: Space,
    of_point: HashMap<Point, Kernel>,
}

impl Candidates {
    /// For a task on a device: of all kernels for as many queries the rule's choice, and those that
    /// run and that the task allows.
    pub(super) fn new(capabilities: &Capabilities, task: &Task, rule: Kernel) -> Result<Self> {
        let mut all = vec![rule];
        let few = (1..=Decode::QUERIES).contains(&task.q_len);
        let runs = |kernel: Kernel| kernel.check(capabilities, task).is_ok() && task.allows(kernel);
        // A software device's compiler takes up to minutes for eight rows written out, which no CPU
        // has the registers for.
        let compiles = |kernel: Kernel| match kernel {
            Kernel::Tiled(tile) => !capabilities.is_software() || tile.rows_each() < 8,
            _ => true,
        };
        // How many there are then.
        let mut add = |kernels: Vec<Kernel>| {
            for kernel in kernels {
                if runs(kernel) && compiles(kernel) && !all.contains(&kernel) {
                    all.push(kernel);
                }
            }
            all.len()
        };
        let starts = match few {
            true => 1,
            false => add([matrices(), vec![Kernel::Naive], known_tiles()].concat()),
        };
        add(if few { decodes() } else { tiles() });
        let space = space(&all)?;
        let points = all.iter().filter(|&&kernel| !parameters(kernel).is_empty());
        let points = points.map(|&kernel| Ok((space.point(parameters(kernel))?, kernel)));
        let of_point = points.collect::<Result<_>>()?;
        Ok(Self { all, starts, space, of_point })
    }

    /// All of them, the rule's choice first.
    pub(super) fn all(&self) -> &[Kernel] {
        &self.all
    }

    /// Those with which a search begins, the rule's choice first.
    pub(super) fn starts(&self) -> &[Kernel] {
        &self.all[..self.starts]
    }

    /// The space that is searched.
    pub(super) fn space(&self) -> &Space {
        &self.space
    }

    /// The kernel at a point; none where the parameters are those of no kernel that runs.
    pub(super) fn kernel(&self, point: &Point) -> Option<Kernel> {
        self.of_point.get(point).copied()
    }

    /// Where a kernel is in the space; none for those without parameters to search.
    pub(super) fn point(&self, kernel: Kernel) -> Option<Point> {
        let parameters = parameters(kernel);
        if parameters.is_empty() { None } else { self.space.point(parameters).ok() }
    }
}

/// What tells a kernel from others of its kind. There are one naive kernel and four on matrix
/// units: too few to search, so that a search begins with them.
fn parameters(kernel: Kernel) -> Vec<(&'static str, Value)> {
    let number = |number: usize| Value::Number(number as f64);
    match kernel {
        Kernel::Tiled(tile) => vec![
            ("rows", number(tile.rows_each())),
            ("keys", number(tile.keys())),
            ("slices", number(tile.slices())),
            ("keys_from", Value::from(if tile.is_staged() { "workgroup memory" } else { "storage" })),
            ("products", Value::from(if tile.uses_f16_products() { "f16" } else { "f32" })),
        ],
        Kernel::Decode(decode) => vec![
            ("row_sets", number(decode.row_sets())),
            (
                "added_by",
                Value::from(if decode.uses_subgroup_quads() { "subgroup quads" } else { "workgroup memory" }),
            ),
        ],
        Kernel::Naive | Kernel::Matrix(_) => Vec::new(),
    }
}

/// Of the parameters that these kernels have, with the values that occur: numbers in their order.
fn space(kernels: &[Kernel]) -> Result<Space> {
    let mut listed: Vec<(&str, Vec<Value>)> = Vec::new();
    for (name, value) in kernels.iter().flat_map(|&kernel| parameters(kernel)) {
        match listed.iter_mut().find(|(other, _)| *other == name) {
            Some((_, values)) if values.contains(&value) => {}
            Some((_, values)) => values.push(value),
            None => listed.push((name, vec![value])),
        }
    }
    let parameter = |(name, mut values): (&str, Vec<Value>)| {
        if values.iter().any(|value| value.number().is_none()) {
            return Parameter::nominal(name, values);
        }
        values.sort_by(|a, b| a.number().partial_cmp(&b.number()).unwrap_or(Ordering::Equal));
        Parameter::ordinal(name, values)
    };
    Space::new(listed.into_iter().map(parameter).collect::<Result<Vec<_>>>()?)
}

/// All kernels for few queries.
fn decodes() -> Vec<Kernel> {
    let shapes = [1, 2, 4, 8].into_iter().flat_map(|row_sets| [(row_sets, true), (row_sets, false)]);
    shapes.filter_map(|(row_sets, quads)| Decode::new(row_sets, quads).ok().map(Kernel::Decode)).collect()
}

/// All kernels on matrix units.
fn matrices() -> Vec<Kernel> {
    let shapes = [(16, true), (16, false), (8, true), (8, false)];
    shapes
        .into_iter()
        .filter_map(|(edge, padded)| Matrix::new(edge, padded, false).ok().map(Kernel::Matrix))
        .collect()
}

/// Rows, keys, whether these are staged, slices, and whether products are in f16.
type TileShape = (usize, usize, bool, usize, bool);

/// Tiles that measurements or machine code recommend on some device.
fn known_tiles() -> Vec<Kernel> {
    let staged = [(4, 4), (2, 4), (1, 4), (2, 8), (1, 8), (2, 2)];
    let direct = [(1, 1), (1, 2), (1, 4), (2, 2)];
    let shared = [(2, false), (4, false), (2, true), (4, true)];
    let f16_products = [2, 4, 8];
    let staged = staged.map(|(rows, keys)| (rows, keys, true, 1, false));
    let direct = direct.map(|(rows, keys)| (rows, keys, false, 1, false));
    let shared = shared.map(|(slices, staged)| (1, 4, staged, slices, false));
    let f16_products = f16_products.map(|keys| (1, keys, false, 1, true));
    staged.into_iter().chain(direct).chain(shared).chain(f16_products).filter_map(tile).collect()
}

/// All tiles.
fn tiles() -> Vec<Kernel> {
    let mut shapes: Vec<TileShape> = Vec::new();
    for rows in [1, 2, 4, 8] {
        for keys in [1, 2, 4, 8] {
            for slices in [1, 2, 4] {
                let flags = [(true, false), (false, false), (true, true), (false, true)];
                shapes.extend(flags.map(|(staged, f16_products)| (rows, keys, staged, slices, f16_products)));
            }
        }
    }
    shapes.into_iter().filter_map(tile).collect()
}

fn tile((rows, keys, staged, slices, f16_products): TileShape) -> Option<Kernel> {
    let tile = Tile::new(rows, keys, staged).and_then(|tile| tile.with_slices(slices));
    tile.ok().map(|tile| Kernel::Tiled(tile.with_f16_products(f16_products)))
}
