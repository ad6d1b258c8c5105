//! Which kernel a device gets for a task.

use super::shapes::{Decode, Kernel, Matrix, TILE_ROWS, Tile};
use super::variant::PositionsVariant;
use crate::cache::gpu::variant::CacheVariant;
use crate::error::{Error, Result};
use crate::layout::DType;
use crate::runtime::capabilities::Capabilities;

/// What a kernel is chosen for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task {
    pub(crate) head_dim: usize,
    pub(crate) value_dim: usize,
    pub(crate) positions: PositionsVariant,
    /// Whether calls may bring a mask tensor.
    pub(crate) masked: bool,
    /// Whether keys and values lie in pages.
    pub(crate) paged: bool,
    /// The most queries of a sequence.
    pub(crate) q_len: usize,
    pub(crate) heads_per_kv: usize,
    pub(crate) cache: Option<CacheVariant>,
    /// The type of queries, keys and values.
    pub(crate) storage: DType,
    /// Whether products may be rounded to f16.
    pub(crate) f16_products: bool,
}

impl Task {
    /// Whether a kernel's products are as exact as the task wants them.
    pub(crate) fn allows(&self, kernel: Kernel) -> bool {
        match kernel {
            Kernel::Tiled(tile) => self.f16_products || !tile.uses_f16_products(),
            _ => true,
        }
    }

    /// Whether keys turn on their way.
    fn rotates_keys(&self) -> bool {
        self.positions.rope.is_some() && self.cache.is_none_or(|cache| cache.rotate_keys)
    }
}

impl Kernel {
    /// The rule of [`Kernel`]'s documentation, and what it says of this task: what to take, and
    /// what instead where that [doesn't pass a trial](Kernel::needs_trial) on the device. The last
    /// needs none.
    pub(crate) fn choices(capabilities: &Capabilities, task: &Task) -> Vec<(Self, String)> {
        let mut choices = Vec::new();
        let few = (1..=Decode::QUERIES).contains(&task.q_len);
        let matrices = [(16, true), (16, false), (8, true), (8, false)]
            .into_iter()
            .filter_map(|(edge, padded)| Matrix::new(edge, padded, false).ok().map(Kernel::Matrix));
        let fits = |kernel: &Kernel| !few && kernel.check(capabilities, task).is_ok();
        if let Some(kernel) = matrices.into_iter().find(fits) {
            let reason = "many queries in f16 storage, and matrix units that were asked for, are listed and passed the self-check here";
            choices.push((kernel, reason.to_owned()));
        }
        choices.push(Self::choose_portable(capabilities, task, true));
        if choices.last().is_some_and(|(kernel, _)| kernel.needs_trial()) {
            choices.push(Self::choose_portable(capabilities, task, false));
        }
        choices
    }

    /// Whether it takes more of a device than WebGPU promises: a plan chooses it only where it has
    /// agreed with the portable kernel on that device.
    pub(crate) fn needs_trial(&self) -> bool {
        match self {
            Kernel::Matrix(_) => true,
            // Which lanes make up a subgroup is the device's own affair.
            Kernel::Tiled(tile) => tile.slices() > 1 && !tile.is_staged(),
            Kernel::Naive | Kernel::Decode(_) => false,
        }
    }

    /// The rule without matrix units, and with or without subgroups that share rows.
    fn choose_portable(capabilities: &Capabilities, task: &Task, subgroups: bool) -> (Self, String) {
        if (1..=Decode::QUERIES).contains(&task.q_len) {
            let quads = capabilities.subgroup_sizes.is_some();
            let rows = task.q_len * task.heads_per_kv;
            let dim = task.head_dim.max(task.value_dim);
            let rotated = task.cache.is_some_and(|cache| cache.is_rotated());
            let decode = Decode::choose(rows, quads, capabilities.is_software(), dim, rotated);
            let adding =
                if quads { "by quad operations" } else { "through workgroup memory, without subgroups" };
            let queries = match task.q_len {
                1 => "one query".to_owned(),
                most => format!("at most {most} queries"),
            };
            let reason = format!(
                "{queries}: {rows} rows share each key, of which a workgroup holds {}, and keys are split over workgroups; lanes add up {adding}",
                decode.rows(rotated),
            );
            return (Kernel::Decode(decode), reason);
        }
        let staged = task.rotates_keys() || task.cache.is_some();
        let dim = task.head_dim.max(task.value_dim);
        let software = capabilities.is_software();
        let fits = |(_, most): (u32, u32)| most <= Tile::SHARED_SUBGROUP;
        let shared = staged || (subgroups && !task.paged && capabilities.subgroup_sizes.is_some_and(fits));
        let mut tile = Tile::choose(software, [task.head_dim, task.value_dim], staged, shared);
        if task.cache.is_some() {
            tile = tile.with_keys(CacheVariant::KEYS);
        }
        // CPUs have no f16 arithmetic to speak of: lavapipe takes twice the time.
        let f16_products = task.f16_products && !software && task.cache.is_none();
        tile =
            tile.with_f16_products(f16_products && task.storage == DType::F16 && capabilities.f16_arithmetic);
        let from = match (task.cache.is_some(), task.rotates_keys(), software) {
            (true, _, _) => "packed keys are expanded on their way through workgroup memory",
            (_, true, _) => "keys turn on their way through workgroup memory",
            (_, _, true) => "a CPU reads workgroup memory at constant indices fastest",
            _ => "a GPU reads storage at uniform addresses by scalar or broadcast loads",
        };
        let row = if tile.slices() > 1 {
            format!("1/{} row", tile.slices())
        } else {
            format!("{} row(s)", tile.rows_each())
        };
        let mut reason = format!(
            "{from}; at D = {dim} {row} an invocation and {} key(s) at a time fit the registers",
            tile.keys()
        );
        let kernel = Kernel::Tiled(tile);
        let Err(error) = kernel.check(capabilities, task) else { return (kernel, reason) };
        reason = format!("{error}: the smallest tile instead");
        (Kernel::Tiled(tile.smallest(staged)), reason)
    }

    /// Refuses a kernel that was asked for and that the device can't run.
    pub(crate) fn check(&self, capabilities: &Capabilities, task: &Task) -> Result<()> {
        if task.paged && self.needs_trial() {
            return Err(Error::unsupported(format!("{self} can't read pages")));
        }
        match self {
            Kernel::Tiled(tile) if !tile.is_staged() && task.rotates_keys() => {
                let message =
                    format!("{self} can't rotate keys: they turn on their way through workgroup memory");
                return Err(Error::unsupported(message));
            }
            Kernel::Tiled(tile)
                if task.cache.is_some() && (!tile.is_staged() || tile.keys() != CacheVariant::KEYS) =>
            {
                let message =
                    format!("{self} can't read a cache: its tiles must be staged, four keys at a time");
                return Err(Error::unsupported(message));
            }
            Kernel::Tiled(tile) if tile.slices() > 1 => {
                let [lanes, slices] = [TILE_ROWS / tile.rows_each(), tile.slices()];
                let fits = |(_, most): (u32, u32)| most as usize <= lanes;
                if !tile.is_staged() && !capabilities.subgroup_sizes.is_some_and(fits) {
                    let message = format!("{self} needs a device with subgroups of at most {lanes}");
                    return Err(Error::unsupported(message));
                }
                if ![task.head_dim, task.value_dim].iter().all(|dim| dim.is_multiple_of(4 * slices)) {
                    let message = format!(
                        "{self} can't divide D = {} and D_v = {} by {}",
                        task.head_dim,
                        task.value_dim,
                        4 * slices
                    );
                    return Err(Error::unsupported(message));
                }
                let has = capabilities.max_workgroup_invocations as usize;
                if lanes * slices > has {
                    let message = format!(
                        "{self} needs {} invocations a workgroup, the device has {has}",
                        lanes * slices
                    );
                    return Err(Error::unsupported(message));
                }
            }
            _ => {}
        }
        match self {
            Kernel::Tiled(tile) if tile.uses_f16_products() && task.storage != DType::F16 => {
                let message = format!("{self} needs queries, keys and values in f16, not {}", task.storage);
                return Err(Error::unsupported(message));
            }
            Kernel::Tiled(tile) if tile.uses_f16_products() && task.cache.is_some() => {
                return Err(Error::unsupported(format!("{self} can't read a cache")));
            }
            Kernel::Tiled(tile) if tile.uses_f16_products() && !capabilities.f16_arithmetic => {
                return Err(Error::unsupported(format!("{self} needs a device with f16 arithmetic")));
            }
            Kernel::Naive if task.cache.is_some() => {
                return Err(Error::unsupported(format!("{self} can't read a cache")));
            }
            Kernel::Decode(decode)
                if decode.uses_subgroup_quads() && capabilities.subgroup_sizes.is_none() =>
            {
                return Err(Error::unsupported(format!("{self} needs a device with subgroups")));
            }
            Kernel::Matrix(matrix) => self.check_matrix(*matrix, capabilities, task)?,
            _ => {}
        }
        let dim = task.head_dim.max(task.value_dim);
        let (needs, has) =
            (self.workgroup_bytes(task.head_dim, task.value_dim), capabilities.max_workgroup_bytes as usize);
        if needs > has {
            let message =
                format!("{self} needs {needs} bytes of workgroup memory at D = {dim}, the device has {has}");
            return Err(Error::unsupported(message));
        }
        Ok(())
    }

    fn check_matrix(&self, matrix: Matrix, capabilities: &Capabilities, task: &Task) -> Result<()> {
        let unsupported = |why: String| Err(Error::unsupported(format!("{self} {why}")));
        if task.cache.is_some() {
            return unsupported("can't read a cache".to_owned());
        }
        if task.storage != DType::F16 {
            return unsupported(format!("multiplies f16, and these tensors are {}", task.storage));
        }
        let (has, needs) = (capabilities.max_workgroup_invocations as usize, self.invocations());
        if has < needs {
            return unsupported(format!("needs {needs} invocations per workgroup, the device has {has}"));
        }
        if !matrix.is_emulated() && capabilities.is_software() {
            return unsupported("isn't run on CPU adapters: drivers crash there".to_owned());
        }
        if !matrix.is_emulated() && !capabilities.cooperative_matrices.contains(&(matrix.edge() as u32)) {
            let edge = matrix.edge();
            return unsupported(format!(
                "needs a device that lists {edge}×{edge} matrices of f16 with f32 sums, and ContextOptions::cooperative_matrices"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A graphics card with matrix units that were asked for.
    fn card(matrices: &[u32]) -> Capabilities {
        Capabilities {
            adapter: String::new(),
            driver: String::new(),
            backend: wgpu::Backend::Vulkan,
            device_type: wgpu::DeviceType::DiscreteGpu,
            subgroup_sizes: Some((32, 64)),
            f16_arithmetic: true,
            timestamps: false,
            max_binding_bytes: 1 << 30,
            max_buffer_bytes: 1 << 30,
            max_workgroups_per_dimension: 65_535,
            max_workgroup_invocations: 1024,
            max_workgroup_bytes: 65_536,
            cooperative_matrices: matrices.to_vec(),
        }
    }

    fn task(dim: usize) -> Task {
        Task {
            head_dim: dim,
            value_dim: dim,
            positions: PositionsVariant::default(),
            masked: false,
            paged: false,
            q_len: 100,
            heads_per_kv: 4,
            storage: DType::F16,
            cache: None,
            f16_products: false,
        }
    }

    #[test]
    fn matrix_units_are_chosen_where_everything_fits() {
        let chosen = |capabilities: &Capabilities, task: &Task| match Kernel::choices(capabilities, task)[0].0
        {
            Kernel::Matrix(matrix) => Some((matrix.edge(), matrix.is_padded(), matrix.is_emulated())),
            _ => None,
        };
        let both = card(&[8, 16]);
        assert_eq!(chosen(&both, &task(64)), Some((16, true, false)));
        assert_eq!(chosen(&card(&[8]), &task(64)), Some((8, true, false)));
        assert_eq!(chosen(&card(&[]), &task(64)), None);
        // Rows that lie close need exactly 32 KiB at D = 128.
        let small = Capabilities { max_workgroup_bytes: 32_768, ..both.clone() };
        assert_eq!(chosen(&small, &task(128)), Some((16, false, false)));
        assert_eq!(chosen(&small, &task(64)), Some((16, true, false)));
        assert_eq!(chosen(&small, &task(192)), None);
        let few = Capabilities { max_workgroup_invocations: 64, ..both.clone() };
        assert_eq!(chosen(&few, &task(64)), None);
        let software = Capabilities { device_type: wgpu::DeviceType::Cpu, ..both.clone() };
        assert_eq!(chosen(&software, &task(64)), None);
        for storage in [DType::F32, DType::Bf16] {
            assert_eq!(chosen(&both, &Task { storage, ..task(64) }), None);
        }
        assert_eq!(chosen(&both, &Task { q_len: Decode::QUERIES, ..task(64) }), None);
        let cache = Some(CacheVariant { widths: [0; 2], group: 32, rotate_keys: false });
        assert_eq!(chosen(&both, &Task { cache, ..task(64) }), None);
    }

    /// What the device may get wrong is tried, and behind it stands what needs no trial.
    #[test]
    fn the_last_choice_needs_no_trial() {
        let named = |capabilities: &Capabilities, dim| {
            let choices = Kernel::choices(capabilities, &task(dim));
            let (last, others) = choices.split_last().unwrap();
            assert!(!last.0.needs_trial() && others.iter().all(|(kernel, _)| kernel.needs_trial()));
            choices.iter().map(|(kernel, _)| kernel.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(named(&card(&[]), 64), ["attention_tiled_r1_k4_direct"]);
        assert_eq!(
            named(&card(&[16]), 128),
            [
                "attention_matrix_m16_padded",
                "attention_tiled_r1_k4_direct_p2",
                "attention_tiled_r1_k2_direct"
            ]
        );
        assert_eq!(
            named(&card(&[]), 256),
            ["attention_tiled_r1_k4_direct_p4", "attention_tiled_r1_k1_direct"]
        );
        let large = Capabilities { subgroup_sizes: Some((64, 128)), ..card(&[]) };
        assert_eq!(named(&large, 256), ["attention_tiled_r1_k1_direct"]);
    }
}
