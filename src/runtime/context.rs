//! The device: found by us, or the caller's own.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use super::adapter;
use super::capabilities::{Capabilities, matrix_edges};
use super::identity::{DeviceId, Identity, State, state_of};
use super::late::{Late, typed};
use super::options::ContextOptions;
use super::pipeline_cache;
use super::program::{INVOCATIONS, Pipeline, UNIFORM_BYTES};
use super::sync::lock;
use crate::error::{Error, Result};

/// [`ContextOptions::max_dispatch_flops`] of devices that aren't the CPU: 0.2 s at 1 TFLOP/s, and
/// no more than Windows' 2 s at a tenth of that.
const MAX_DISPATCH_FLOPS: u64 = 200_000_000_000;

/// A GPU device to compute on, with the pipelines compiled for it. Cheap to clone: clones share
/// everything.
///
/// ```no_run
/// # fn main() -> Result<(), prflash::Error> {
/// let context = prflash::Context::new_blocking()?;
/// println!("{}", context.capabilities());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Context {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) device: wgpu::Device,
    queue: wgpu::Queue,
    identity: Arc<Identity>,
    capabilities: Capabilities,
    max_dispatch_flops: Option<u64>,
    trusted_shaders: bool,
    pipeline_cache: Option<wgpu::PipelineCache>,
    /// Why the device was lost. Set by our own callback only: a borrowed device keeps its caller's
    /// handlers.
    pub(super) lost: Arc<Mutex<Option<String>>>,
    /// Errors that arrive later than the calls that caused them.
    pub(super) late: Arc<Late>,
    /// The pipelines by the label of their program.
    pipelines: Mutex<HashMap<String, Arc<Pipeline>>>,
    /// What came of trying programs out, by what was tried: nothing, or what was wrong.
    trials: Mutex<HashMap<String, Option<String>>>,
}

impl Context {
    /// Finds an adapter (respecting `WGPU_BACKEND`, `WGPU_ADAPTER_NAME` and `WGPU_POWER_PREF`) and
    /// opens it with its own limits.
    ///
    /// # Errors
    /// No adapter; unsupported, where it can't run compute shaders as prflash needs them.
    pub async fn new() -> Result<Self> {
        Self::with_options(&ContextOptions::default()).await
    }

    /// [`Context::new`], blocking.
    ///
    /// # Errors
    /// As [`Context::new`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn new_blocking() -> Result<Self> {
        pollster::block_on(Self::new())
    }

    /// [`Context::with_options`], blocking.
    ///
    /// # Errors
    /// As [`Context::new`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn with_options_blocking(options: &ContextOptions) -> Result<Self> {
        pollster::block_on(Self::with_options(options))
    }

    /// Opens the adapter that the options choose.
    ///
    /// # Errors
    /// As [`Context::new`].
    pub async fn with_options(options: &ContextOptions) -> Result<Self> {
        let adapter = adapter::find(options).await?;
        // Only what some kernel or report of ours can use.
        let mut wanted =
            wgpu::Features::SHADER_F16 | wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::PIPELINE_CACHE;
        wanted.set(wgpu::Features::SUBGROUP, options.uses_subgroups(adapter.get_info().backend));
        let mut experimental_features = wgpu::ExperimentalFeatures::disabled();
        // Not even enabled on a CPU adapter: there are drivers that crash.
        let software = adapter.get_info().device_type == wgpu::DeviceType::Cpu;
        let listed = adapter.cooperative_matrix_properties();
        if options.cooperative_matrices && !software && !matrix_edges(&listed).is_empty() {
            wanted |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
            // SAFETY: wgpu wants it known that its experimental features may be unsound. The caller
            // asked for this one by `ContextOptions::cooperative_matrices`, whose documentation
            // says so; one kernel of ours uses it, at addresses inside its own workgroup memory
            // whose strides and alignment `Matrix::layout` fixes, and a plan takes it only after it
            // agreed with the portable kernel.
            #[allow(unsafe_code)]
            unsafe {
                experimental_features = wgpu::ExperimentalFeatures::enabled();
            }
        }
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("prflash"),
                required_features: adapter.features() & wanted,
                required_limits: adapter.limits(),
                experimental_features,
                ..Default::default()
            })
            .await
            .map_err(|error| Error::unsupported(format!("the adapter refused to open: {error}")))?;
        let lost = Arc::new(Mutex::new(None));
        let late = Arc::new(Late::default());
        let (reason, waited) = (lost.clone(), late.clone());
        device.set_device_lost_callback(move |why, message| {
            // The device is ours and so is its end: dropping it is no loss.
            *lock(&reason) = Some(format!("{why:?}: {message}"));
            waited.close();
        });
        let uncaptured = late.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            log::error!("uncaptured GPU error: {error}");
            uncaptured.tell(typed("uncaptured", error));
        }));
        Self::from_parts(device, queue, (lost, late), options, &listed)
    }

    /// Computes on the caller's device, with whatever features and limits it has.
    ///
    /// No handler is installed on it: uncaptured errors and device loss stay the caller's to
    /// observe.
    ///
    /// # Errors
    /// Unsupported, where the device's limits are below what the plainest kernel needs (the message
    /// says which); other device (`queue`) where the queue isn't the device's.
    pub fn from_wgpu(device: wgpu::Device, queue: wgpu::Queue) -> Result<Self> {
        Self::from_wgpu_with(device, queue, &ContextOptions::default())
    }

    /// [`from_wgpu`](Context::from_wgpu) with the options that don't choose an adapter.
    ///
    /// # Errors
    /// As [`from_wgpu`](Context::from_wgpu).
    pub fn from_wgpu_with(
        device: wgpu::Device,
        queue: wgpu::Queue,
        options: &ContextOptions,
    ) -> Result<Self> {
        let listed = options.cooperative_matrix_properties.as_deref().unwrap_or_default();
        Self::from_parts(device, queue, Default::default(), options, listed)
    }

    fn from_parts(
        device: wgpu::Device,
        queue: wgpu::Queue,
        (lost, late): (Arc<Mutex<Option<String>>>, Arc<Late>),
        options: &ContextOptions,
        listed_matrices: &[wgpu::CooperativeMatrixProperties],
    ) -> Result<Self> {
        let limits = device.limits();
        let needs = [
            ("storage buffers per shader stage", limits.max_storage_buffers_per_shader_stage, 8),
            ("bind groups", limits.max_bind_groups, 4),
            ("uniform buffers per shader stage", limits.max_uniform_buffers_per_shader_stage, 2),
            (
                "dynamic uniform buffers per pipeline layout",
                limits.max_dynamic_uniform_buffers_per_pipeline_layout,
                1,
            ),
            (
                "bytes of a uniform binding",
                u32::try_from(limits.max_uniform_buffer_binding_size).unwrap_or(u32::MAX),
                UNIFORM_BYTES,
            ),
            (
                "dynamic storage buffers per pipeline layout",
                limits.max_dynamic_storage_buffers_per_pipeline_layout,
                1,
            ),
            (
                "invocations per workgroup",
                limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x),
                INVOCATIONS,
            ),
        ];
        for (what, has, need) in needs {
            if has < need {
                return Err(Error::unsupported(format!("prflash needs {need} {what}, the device has {has}")));
            }
        }
        let mut capabilities = Capabilities::of(&device);
        if !options.uses_subgroups(capabilities.backend) {
            capabilities.subgroup_sizes = None;
        }
        let needs = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
            | wgpu::Features::SHADER_F16
            | wgpu::Features::SUBGROUP;
        let subgroups = capabilities.subgroup_sizes.is_some();
        if options.cooperative_matrices
            && subgroups
            && device.features().contains(needs)
            && !capabilities.is_software()
        {
            capabilities.cooperative_matrices = matrix_edges(listed_matrices);
        }
        let usual = (!capabilities.is_software()).then_some(MAX_DISPATCH_FLOPS);
        let pipeline_cache = pipeline_cache::open(&device, options.pipeline_cache.as_deref());
        let identity = Identity::of(&device);
        if !identity.owns_queue(&queue) {
            return Err(Error::other_device("queue", "expected the queue that came with the device"));
        }
        let inner = Inner {
            identity,
            pipeline_cache,
            trusted_shaders: options.trusted_shaders,
            device,
            queue,
            max_dispatch_flops: options.max_dispatch_flops.or(usual),
            capabilities,
            lost,
            late,
            pipelines: Mutex::default(),
            trials: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The device.
    pub fn device(&self) -> &wgpu::Device {
        &self.inner.device
    }

    /// The device's queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.inner.queue
    }

    /// What the device can do.
    pub fn capabilities(&self) -> &Capabilities {
        &self.inner.capabilities
    }

    /// Floating-point operations past which attention is cut into several dispatches
    /// ([`ContextOptions::max_dispatch_flops`]), if there is a limit.
    pub fn max_dispatch_flops(&self) -> Option<u64> {
        self.inner.max_dispatch_flops
    }

    /// Whether kernels run without wgpu's checks ([`ContextOptions::trusted_shaders`]).
    pub fn trusts_shaders(&self) -> bool {
        self.inner.trusted_shaders
    }

    pub(crate) fn pipeline_cache(&self) -> Option<&wgpu::PipelineCache> {
        self.inner.pipeline_cache.as_ref()
    }

    /// The pipelines that were compiled so far, for [`ContextOptions::pipeline_cache`] of a later
    /// run on the same device and driver; nothing where there is no such cache (it takes Vulkan and
    /// [`Features::PIPELINE_CACHE`](wgpu::Features::PIPELINE_CACHE), which [`Context::new`]
    /// enables).
    pub fn pipeline_cache_data(&self) -> Option<Vec<u8>> {
        pipeline_cache::data(&self.inner.device, self.pipeline_cache()?)
    }

    /// The pipelines compiled so far, by the label of their program.
    pub(super) fn pipelines(&self) -> &Mutex<HashMap<String, Arc<Pipeline>>> {
        &self.inner.pipelines
    }

    /// What was wrong when this was tried out, if anything; `check` is run the first time.
    #[cfg_attr(target_arch = "wasm32", allow(dead_code))]
    pub(crate) fn trial(&self, what: String, check: impl FnOnce() -> Option<String>) -> Option<String> {
        if let Some(found) = lock(&self.inner.trials).get(&what) {
            return found.clone();
        }
        // Not held meanwhile: a second thread would check again at worst.
        let found = check();
        lock(&self.inner.trials).entry(what).or_insert(found).clone()
    }

    pub(super) fn late(&self) -> &Late {
        &self.inner.late
    }

    /// Submits commands of ours.
    ///
    /// # Errors
    /// Device lost; invalid argument (`buffer`) where a buffer that they use was destroyed or is
    /// mapped.
    pub(crate) fn submit(&self, commands: impl IntoIterator<Item = wgpu::CommandBuffer>) -> Result<()> {
        self.capture(|| self.inner.queue.submit(commands))?;
        // wgpu takes commands for a lost device without a word.
        self.check_alive()
    }

    /// The number of the device.
    pub(crate) fn device_id(&self) -> DeviceId {
        self.inner.identity.id()
    }

    /// Refuses what is of another device.
    pub(crate) fn check_device(&self, argument: &'static str, device: DeviceId) -> Result<()> {
        if device == self.device_id() {
            return Ok(());
        }
        Err(Error::other_device(argument, format!("expected one of {}", self.capabilities())))
    }

    /// Refuses a caller's buffer that is of another device, as far as that can be found out.
    pub(crate) fn check_buffer(&self, argument: &'static str, buffer: &wgpu::Buffer) -> Result<()> {
        if self.inner.identity.owns(buffer) {
            return Ok(());
        }
        // A lost device answers nothing.
        self.check_alive()?;
        Err(Error::other_device(argument, format!("expected a buffer of {}", self.capabilities())))
    }

    /// Refuses a buffer that no command can use.
    pub(crate) fn check_usable(&self, argument: &'static str, buffer: &wgpu::Buffer) -> Result<()> {
        let state = match state_of(buffer) {
            State::Usable => return Ok(()),
            State::Mapped => "is mapped: unmap it first",
            State::Destroyed => "was destroyed",
        };
        self.check_alive()?;
        Err(Error::argument_error(
            argument,
            format!("expected a buffer that commands can use; this one {state}"),
        ))
    }

    /// A buffer, or the reason why not.
    pub(crate) fn create_buffer(
        &self,
        label: &str,
        size: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer> {
        let limit = self.inner.capabilities.max_buffer_bytes;
        if size > limit {
            return Err(Error::too_large(
                "size",
                format!("{label}: {size} bytes are past the device's {limit} for a buffer"),
            ));
        }
        let descriptor = wgpu::BufferDescriptor {
            label: Some(label),
            // Bindings can't be empty.
            size: size.max(16).next_multiple_of(16),
            usage,
            mapped_at_creation: false,
        };
        let what = format!("{label}, {} bytes", descriptor.size);
        let (buffer, _) = self.capture_call(&what, || self.inner.device.create_buffer(&descriptor))?;
        self.check_alive()?;
        Ok(buffer)
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("capabilities", &self.inner.capabilities).finish_non_exhaustive()
    }
}
