//! RADV's null device: a driver that compiles for a chip that isn't there. The one module that
//! talks to Vulkan.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::CString;

use anyhow::{Context, Result, bail, ensure};
use ash::{ext, khr, vk};

use crate::spirv::Module;

/// A device of one family. The driver reads the family from its environment when it is opened.
pub struct NullDevice {
    // Held for its library, which the functions below live in.
    _entry: ash::Entry,
    instance: ash::Instance,
    device: ash::Device,
    executables: khr::pipeline_executable_properties::Device,
    /// Name and version of the driver.
    pub driver: String,
    features: Features,
}

/// What some kernels need and not every family has.
#[derive(Clone, Copy)]
struct Features {
    cooperative: bool,
    f16: bool,
}

/// What the driver says of a compiled kernel.
pub struct Compiled {
    /// The driver's numbers, by name.
    pub statistics: BTreeMap<String, u64>,
    /// The final machine code as text.
    pub assembly: String,
    /// Lanes of a wave.
    pub wave: u32,
}

impl NullDevice {
    /// Opens a device of this family, as RADV names them: `navi31`, `vega10`. `robust` is how wgpu
    /// opens devices: with robust buffer access.
    ///
    /// # Errors
    /// No Vulkan loader, no such driver, one that has no null device, or no such family.
    pub fn open(family: &str, robust: bool) -> Result<Self> {
        // SAFETY: this program opens one device at a time, and before that has no other threads.
        unsafe {
            std::env::set_var("RADV_FORCE_FAMILY", family);
            // The driver's own cache holds no assembly.
            std::env::set_var("MESA_SHADER_CACHE_DISABLE", "true");
        }
        // SAFETY: the Vulkan loader has no requirements beyond being one.
        let entry = unsafe { ash::Entry::load() }.context("there is no Vulkan loader (libvulkan.so.1)")?;
        let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
        let create = vk::InstanceCreateInfo::default().application_info(&application);
        // SAFETY: `create` and what it points to live until the call returns.
        let instance = unsafe { entry.create_instance(&create, None) }
            .context("no Vulkan instance: is VK_DRIVER_FILES RADV's manifest?")?;
        match Self::of_instance(&instance, robust) {
            Ok((device, executables, driver, features)) => {
                Ok(Self { _entry: entry, instance, device, executables, driver, features })
            }
            Err(error) => {
                // SAFETY: nothing made from it is left.
                unsafe { instance.destroy_instance(None) };
                Err(error)
            }
        }
    }

    fn of_instance(
        instance: &ash::Instance,
        robust: bool,
    ) -> Result<(ash::Device, khr::pipeline_executable_properties::Device, String, Features)> {
        // SAFETY: the instance is alive.
        let devices = unsafe { instance.enumerate_physical_devices() }.context("no Vulkan devices")?;
        let physical = *devices
            .first()
            .context("RADV has no null device (Mesa 25 has, 26 hasn't), or knows no such family")?;
        let mut driver = vk::PhysicalDeviceDriverProperties::default();
        let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut driver);
        // SAFETY: `physical` comes from this instance, the chain is of properties.
        unsafe { instance.get_physical_device_properties2(physical, &mut properties) };
        let name =
            properties.properties.device_name_as_c_str().unwrap_or_default().to_string_lossy().into_owned();
        ensure!(driver.driver_id == vk::DriverId::MESA_RADV, "this is {name}, not RADV");
        let version = driver.driver_info_as_c_str().unwrap_or_default().to_string_lossy().into_owned();

        // SAFETY: as above.
        let extensions = unsafe { instance.enumerate_device_extension_properties(physical) }?;
        let has = |name: &std::ffi::CStr| extensions.iter().any(|e| e.extension_name_as_c_str() == Ok(name));
        ensure!(
            has(khr::pipeline_executable_properties::NAME),
            "this driver doesn't report on its executables"
        );
        let mut names = vec![khr::pipeline_executable_properties::NAME.as_ptr()];
        let cooperative = has(khr::cooperative_matrix::NAME);
        let robust = robust && has(ext::robustness2::NAME);

        // What the family reports, and no more, is enabled.
        let (mut v11, mut v12, mut v13) = (
            vk::PhysicalDeviceVulkan11Features::default(),
            vk::PhysicalDeviceVulkan12Features::default(),
            vk::PhysicalDeviceVulkan13Features::default(),
        );
        let mut executable = vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default();
        let mut robustness = vk::PhysicalDeviceRobustness2FeaturesEXT::default();
        let mut matrix = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default();
        let mut features = vk::PhysicalDeviceFeatures2::default()
            .push_next(&mut v11)
            .push_next(&mut v12)
            .push_next(&mut v13)
            .push_next(&mut executable);
        if robust {
            names.push(ext::robustness2::NAME.as_ptr());
            features = features.push_next(&mut robustness);
        }
        if cooperative {
            names.push(khr::cooperative_matrix::NAME.as_ptr());
            features = features.push_next(&mut matrix);
        }
        // SAFETY: as above; the chain is of features.
        unsafe { instance.get_physical_device_features2(physical, &mut features) };
        let mut features = features.features;
        // wgpu enables robust access wherever there is one, but captures nothing.
        features.robust_buffer_access = robust.into();
        robustness.null_descriptor = vk::FALSE;
        robustness.p_next = std::ptr::null_mut();
        matrix.p_next = std::ptr::null_mut();
        executable.p_next = std::ptr::null_mut();
        (v11.p_next, v12.p_next, v13.p_next) =
            (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());

        let queue = [vk::DeviceQueueCreateInfo::default().queue_priorities(&[1.0])];
        let mut create = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queue)
            .enabled_extension_names(&names)
            .enabled_features(&features)
            .push_next(&mut v11)
            .push_next(&mut v12)
            .push_next(&mut v13)
            .push_next(&mut executable);
        if robust {
            create = create.push_next(&mut robustness);
        }
        if cooperative {
            create = create.push_next(&mut matrix);
        }
        // SAFETY: names and features are those that the device reports; all lives until the call
        // returns.
        let device =
            unsafe { instance.create_device(physical, &create, None) }.context("no Vulkan device")?;
        let executables = khr::pipeline_executable_properties::Device::new(instance, &device);
        let features = Features {
            cooperative: cooperative && matrix.cooperative_matrix == vk::TRUE,
            f16: v12.shader_float16 == vk::TRUE,
        };
        Ok((device, executables, version, features))
    }

    /// What a kernel needs that the family lacks.
    pub fn lacks(&self, wgsl: &str) -> Option<&'static str> {
        let enables = |name: &str| wgsl.lines().any(|line| line.starts_with("enable") && line.contains(name));
        if enables("wgpu_cooperative_matrix") && !self.features.cooperative {
            return Some("cooperative matrices");
        }
        (enables("f16") && !self.features.f16).then_some("f16")
    }

    /// Compiles a kernel. `wave` is the number of lanes to insist on; wgpu leaves it to the driver.
    ///
    /// # Errors
    /// What the driver refuses.
    pub fn compile(&self, module: &Module, entry_point: &str, wave: Option<u32>) -> Result<Compiled> {
        let mut made =
            Made { device: &self.device, sets: Vec::new(), layout: None, module: None, pipeline: None };
        let groups = module.bindings.iter().map(|&(group, ..)| group + 1).max().unwrap_or(0);
        for group in 0..groups {
            let bindings: Vec<_> = module
                .bindings
                .iter()
                .filter(|&&(of, ..)| of == group)
                .map(|&(_, binding, uniform)| {
                    vk::DescriptorSetLayoutBinding::default()
                        .binding(binding)
                        .descriptor_type(descriptor(group, uniform))
                        .descriptor_count(1)
                        .stage_flags(vk::ShaderStageFlags::COMPUTE)
                })
                .collect();
            let create = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
            // SAFETY: the device is alive, and `create` until the call returns: so for all below.
            made.sets.push(unsafe { self.device.create_descriptor_set_layout(&create, None) }?);
        }
        let create = vk::PipelineLayoutCreateInfo::default().set_layouts(&made.sets);
        // SAFETY: as above.
        let layout = unsafe { self.device.create_pipeline_layout(&create, None) }?;
        made.layout = Some(layout);
        let create = vk::ShaderModuleCreateInfo::default().code(&module.words);
        // SAFETY: as above; naga wrote the words from a module that it had validated.
        let shader = unsafe { self.device.create_shader_module(&create, None) }?;
        made.module = Some(shader);

        let name = CString::new(entry_point)?;
        let mut size = vk::PipelineShaderStageRequiredSubgroupSizeCreateInfo::default();
        let mut stage = vk::PipelineShaderStageCreateInfo::default()
            .stage(vk::ShaderStageFlags::COMPUTE)
            .module(shader)
            .name(&name);
        match wave {
            Some(lanes) => {
                size.required_subgroup_size = lanes;
                stage = stage.push_next(&mut size);
            }
            None => stage.flags = vk::PipelineShaderStageCreateFlags::ALLOW_VARYING_SUBGROUP_SIZE,
        }
        let create = vk::ComputePipelineCreateInfo::default().stage(stage).layout(layout).flags(
            vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
                | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR,
        );
        // SAFETY: as above; the layout holds every binding of the module.
        let pipelines =
            unsafe { self.device.create_compute_pipelines(vk::PipelineCache::null(), &[create], None) };
        let pipeline = match pipelines {
            Ok(pipelines) => pipelines[0],
            Err((_, error)) => bail!("the driver refuses the kernel: {error}"),
        };
        made.pipeline = Some(pipeline);
        self.report(pipeline)
    }

    fn report(&self, pipeline: vk::Pipeline) -> Result<Compiled> {
        let info = vk::PipelineInfoKHR::default().pipeline(pipeline);
        // SAFETY: the pipeline is alive and was made with both capture flags: so for all below.
        let executables = unsafe { self.executables.get_pipeline_executable_properties(&info) }?;
        ensure!(executables.len() == 1, "expected one executable, got {}", executables.len());
        let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline).executable_index(0);
        // SAFETY: as above.
        let numbers = unsafe { self.executables.get_pipeline_executable_statistics(&info) }?;
        let statistics = numbers
            .iter()
            .map(|number| {
                let name = number.name_as_c_str().unwrap_or_default().to_string_lossy().into_owned();
                let value = if number.format == vk::PipelineExecutableStatisticFormatKHR::UINT64 {
                    // SAFETY: of the union's members this is the one that `format` names; RADV sets
                    // no other.
                    unsafe { number.value.u64 }
                } else {
                    0
                };
                (name, value)
            })
            .collect();

        // Twice: for the sizes of the texts, then for the texts.
        // SAFETY: as above.
        let mut texts = unsafe { self.executables.get_pipeline_executable_internal_representations(&info) }?;
        let mut buffers: Vec<Vec<u8>> = texts.iter().map(|text| vec![0; text.data_size]).collect();
        for (text, buffer) in texts.iter_mut().zip(&mut buffers) {
            text.p_data = buffer.as_mut_ptr().cast();
        }
        let mut count = texts.len() as u32;
        let read = self.executables.fp().get_pipeline_executable_internal_representations_khr;
        // SAFETY: `texts` holds `count` structures whose buffers are as large as the driver asked
        // for.
        unsafe { read(self.device.handle(), &info, &mut count, texts.as_mut_ptr()) }.result()?;
        let assembly = texts
            .iter()
            .zip(&buffers)
            .find(|(text, _)| {
                text.name_as_c_str().is_ok_and(|name| name.to_string_lossy().contains("Assembly"))
            })
            .map(|(_, buffer)| String::from_utf8_lossy(buffer).trim_end_matches('\0').to_owned())
            .context("the driver gave no assembly")?;
        Ok(Compiled { statistics, assembly, wave: executables[0].subgroup_size })
    }
}

/// Every kernel of prflash has its parameters in group 0, at dynamic offsets.
fn descriptor(group: u32, uniform: bool) -> vk::DescriptorType {
    match (group, uniform) {
        (0, true) => vk::DescriptorType::UNIFORM_BUFFER_DYNAMIC,
        (0, false) => vk::DescriptorType::STORAGE_BUFFER_DYNAMIC,
        (_, true) => vk::DescriptorType::UNIFORM_BUFFER,
        (_, false) => vk::DescriptorType::STORAGE_BUFFER,
    }
}

/// What a compilation made, to be destroyed with it.
struct Made<'a> {
    device: &'a ash::Device,
    sets: Vec<vk::DescriptorSetLayout>,
    layout: Option<vk::PipelineLayout>,
    module: Option<vk::ShaderModule>,
    pipeline: Option<vk::Pipeline>,
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        // SAFETY: all of it was made by this device, and nothing uses it any more.
        unsafe {
            if let Some(pipeline) = self.pipeline {
                self.device.destroy_pipeline(pipeline, None);
            }
            if let Some(module) = self.module {
                self.device.destroy_shader_module(module, None);
            }
            if let Some(layout) = self.layout {
                self.device.destroy_pipeline_layout(layout, None);
            }
            for &set in &self.sets {
                self.device.destroy_descriptor_set_layout(set, None);
            }
        }
    }
}

impl Drop for NullDevice {
    fn drop(&mut self) {
        // SAFETY: every pipeline was destroyed where it was made.
        unsafe {
            self.device.destroy_device(None);
            self.instance.destroy_instance(None);
        }
    }
}
