//! What a device offers.

use std::fmt;

/// What a device offers. Taken from the device itself, not from its adapter: a caller's device may
/// have less enabled.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Capabilities {
    /// The adapter's name, as the API gives it; browsers may give none.
    pub adapter: String,
    /// The driver's name and version.
    pub driver: String,
    /// The graphics API.
    pub backend: wgpu::Backend,
    /// Discrete, integrated, CPU …
    pub device_type: wgpu::DeviceType,
    /// Smallest and largest subgroup size, if subgroup operations are enabled, and
    /// [wanted](crate::ContextOptions::subgroups).
    pub subgroup_sizes: Option<(u32, u32)>,
    /// Whether f16 arithmetic is enabled. (f16 *storage* needs nothing.)
    pub f16_arithmetic: bool,
    /// Whether GPU timestamps are enabled.
    pub timestamps: bool,
    /// Largest storage binding, bytes.
    pub max_binding_bytes: u64,
    /// Largest buffer, bytes.
    pub max_buffer_bytes: u64,
    /// Workgroups per dimension of a dispatch.
    pub max_workgroups_per_dimension: u32,
    /// Invocations of a workgroup.
    pub max_workgroup_invocations: u32,
    /// Memory of a workgroup, bytes.
    pub max_workgroup_bytes: u32,
    /// Rows and columns of the square matrices of f16 with f32 sums that kernels may multiply on
    /// matrix units: 8, 16 or both. None unless
    /// [`ContextOptions::cooperative_matrices`](crate::ContextOptions::cooperative_matrices) asked
    /// for them, on CPU adapters, and without f16 arithmetic or subgroups.
    pub cooperative_matrices: Vec<u32>,
}

/// Edges of the square matrices among these that the matrix kernel knows, with f16 operands and f32
/// sums.
pub(super) fn matrix_edges(listed: &[wgpu::CooperativeMatrixProperties]) -> Vec<u32> {
    use wgpu::CooperativeScalarType::{F16, F32};
    let fits = |edge: &u32| {
        listed.iter().any(|of| {
            [of.m_size, of.n_size, of.k_size] == [*edge; 3] && (of.ab_type, of.cr_type) == (F16, F32)
        })
    };
    [8, 16].into_iter().filter(fits).collect()
}

impl Capabilities {
    pub(super) fn of(device: &wgpu::Device) -> Self {
        let (info, features, limits) = (device.adapter_info(), device.features(), device.limits());
        let subgroups = features.contains(wgpu::Features::SUBGROUP);
        Self {
            adapter: info.name,
            driver: [info.driver, info.driver_info].join(" ").trim().to_owned(),
            backend: info.backend,
            device_type: info.device_type,
            subgroup_sizes: subgroups.then_some((info.subgroup_min_size, info.subgroup_max_size)),
            f16_arithmetic: features.contains(wgpu::Features::SHADER_F16),
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            max_binding_bytes: limits.max_storage_buffer_binding_size,
            max_buffer_bytes: limits.max_buffer_size,
            max_workgroups_per_dimension: limits.max_compute_workgroups_per_dimension,
            max_workgroup_invocations: limits.max_compute_invocations_per_workgroup,
            max_workgroup_bytes: limits.max_compute_workgroup_storage_size,
            cooperative_matrices: Vec::new(),
        }
    }

    /// Whether the "GPU" is the CPU (lavapipe, SwiftShader, WARP).
    pub fn is_software(&self) -> bool {
        self.device_type == wgpu::DeviceType::Cpu
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Browsers may keep both to themselves.
        let or = |text: &str, other| if text.is_empty() { other } else { text.to_owned() };
        let (adapter, driver) =
            (or(&self.adapter, "unnamed adapter".to_owned()), or(&self.driver, "unknown".to_owned()));
        write!(f, "{adapter} ({:?}, driver {driver}", self.backend)?;
        match self.subgroup_sizes {
            Some((min, max)) if min == max => write!(f, ", subgroups of {min}")?,
            Some((min, max)) => write!(f, ", subgroups of {min} to {max}")?,
            None => f.write_str(", no subgroups")?,
        }
        f.write_str(if self.is_software() { ", software)" } else { ")" })
    }
}
