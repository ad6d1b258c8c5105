//! What a context is asked for.

/// Which adapter [`Context::with_options`](crate::Context::with_options) takes, and how it is used.
///
/// An adapter that isn't set comes from wgpu's environment variables (`WGPU_BACKEND`,
/// `WGPU_ADAPTER_NAME`, `WGPU_POWER_PREF`), else the fastest is taken.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ContextOptions {
    /// The graphics APIs to look at.
    pub backends: Option<wgpu::Backends>,
    /// Only an adapter whose name contains this, whatever the case.
    pub adapter_name: Option<String>,
    /// Prefer a fast or a frugal adapter.
    pub power_preference: Option<wgpu::PowerPreference>,
    /// See [`ContextOptions::max_dispatch_flops`].
    pub max_dispatch_flops: Option<u64>,
    /// See [`ContextOptions::subgroups`].
    pub subgroups: Option<bool>,
    /// See [`ContextOptions::trusted_shaders`].
    pub trusted_shaders: bool,
    /// See [`ContextOptions::pipeline_cache`].
    pub pipeline_cache: Option<Vec<u8>>,
    /// See [`ContextOptions::cooperative_matrices`].
    pub cooperative_matrices: bool,
    /// See [`ContextOptions::cooperative_matrix_properties`].
    pub cooperative_matrix_properties: Option<Vec<wgpu::CooperativeMatrixProperties>>,
}

impl ContextOptions {
    /// The options with nothing set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only these graphics APIs.
    pub fn backends(self, backends: wgpu::Backends) -> Self {
        Self { backends: Some(backends), ..self }
    }

    /// Only an adapter whose name contains `name`, whatever the case.
    pub fn adapter_name(self, name: impl Into<String>) -> Self {
        Self { adapter_name: Some(name.into()), ..self }
    }

    /// Prefer a fast or a frugal adapter.
    pub fn power_preference(self, preference: wgpu::PowerPreference) -> Self {
        Self { power_preference: Some(preference), ..self }
    }

    /// Cuts attention that would take more floating-point operations than this into several
    /// dispatches, since watchdogs reset GPUs that are busy with one for seconds (2 s on Windows).
    /// Results don't depend on it. Counted are the 2·(D + D_v) operations of each pair of query and
    /// key in the tiles that are visited; a tile of rows is never cut, and schedules drawn on the
    /// GPU count as dense attention.
    ///
    /// Unless set: 2·10¹¹ (0.2 s at 1 TFLOP/s), and no limit on CPU adapters, which nothing
    /// watches.
    pub fn max_dispatch_flops(self, flops: u64) -> Self {
        Self { max_dispatch_flops: Some(flops), ..self }
    }

    /// Whether kernels may use subgroup operations, where the device has them.
    ///
    /// Unless set: yes, but not in browsers. Nothing was measured there with subgroups (wgpu 30
    /// doesn't pass them on), so a later wgpu that does changes no choice by itself.
    pub fn subgroups(self, wanted: bool) -> Self {
        Self { subgroups: Some(wanted), ..self }
    }

    /// What [`subgroups`](ContextOptions::subgroups) comes to on a graphics API.
    pub(super) fn uses_subgroups(&self, backend: wgpu::Backend) -> bool {
        self.subgroups.unwrap_or(backend != wgpu::Backend::BrowserWebGpu)
    }

    /// Whether kernels run without the checks of indices and loops that wgpu writes into shaders,
    /// and without clearing workgroup memory. Not unless set.
    ///
    /// They stay inside their buffers by themselves: `shader_module` in `src/runtime/pipeline.rs`
    /// says why, index by index, and the tests run in both modes. What it gains depends on the
    /// device (`examples/device_report --trusted`); on CPU adapters only the clearing is left
    /// out, and in browsers nothing.
    pub fn trusted_shaders(self, trusted: bool) -> Self {
        Self { trusted_shaders: trusted, ..self }
    }

    /// Compiled pipelines of an earlier run, from
    /// [`Context::pipeline_cache_data`](crate::Context::pipeline_cache_data): what is in it isn't
    /// compiled again. Bytes that are damaged, or of another device, driver or version, are no
    /// error and have no effect. Only Vulkan devices have such a cache.
    ///
    /// Keep the bytes where nobody else can write: drivers don't defend themselves against forged
    /// ones.
    pub fn pipeline_cache(self, data: impl Into<Vec<u8>>) -> Self {
        Self { pipeline_cache: Some(data.into()), ..self }
    }

    /// Whether kernels may use matrix units ([`Kernel::Matrix`](crate::kernels::Kernel::Matrix)),
    /// where the adapter lists them. Not unless set: wgpu calls its cooperative matrices
    /// experimental and promises no soundness for them, and there are drivers that list them and
    /// crash in them (lavapipe in Mesa 26.1).
    ///
    /// CPU adapters are never asked for them. Even where they are enabled, a plan chooses such a
    /// kernel only after it agreed with the portable one on that device.
    pub fn cooperative_matrices(self, wanted: bool) -> Self {
        Self { cooperative_matrices: wanted, ..self }
    }

    /// What the adapter of a borrowed device lists
    /// ([`wgpu::Adapter::cooperative_matrix_properties`]):
    /// [`Context::from_wgpu_with`](crate::Context::from_wgpu_with) can't ask the device for it, and
    /// without uses no matrix units. The device must have been opened with
    /// [`EXPERIMENTAL_COOPERATIVE_MATRIX`](wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
    /// [`SHADER_F16`](wgpu::Features::SHADER_F16) and [`SUBGROUP`](wgpu::Features::SUBGROUP). A
    /// context that opens its device itself asks the adapter.
    pub fn cooperative_matrix_properties(self, listed: Vec<wgpu::CooperativeMatrixProperties>) -> Self {
        Self { cooperative_matrix_properties: Some(listed), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_have_subgroups_only_by_request() {
        let backends = [wgpu::Backend::BrowserWebGpu, wgpu::Backend::Vulkan, wgpu::Backend::Metal];
        let uses = |options: ContextOptions| backends.map(|backend| options.uses_subgroups(backend));
        assert_eq!(uses(ContextOptions::new()), [false, true, true]);
        assert_eq!(uses(ContextOptions::new().subgroups(true)), [true; 3]);
        assert_eq!(uses(ContextOptions::new().subgroups(false)), [false; 3]);
    }
}
