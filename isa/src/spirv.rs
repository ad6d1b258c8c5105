//! WGSL to SPIR-V, with the options that wgpu 30 gives naga for a Vulkan device with robust buffer
//! access.

use anyhow::{Context, Result, anyhow};
use naga::back::spv;
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use naga::{AddressSpace, ShaderStage};
use prflash::shaders::ShaderSource;

/// What wgpu's runtime checks write into a shader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checks {
    /// With wgpu's checks, as prflash does unless told otherwise.
    Checked,
    /// Without them, as with `ContextOptions::trusted_shaders`.
    Trusted,
}

/// A module with what a pipeline layout needs.
pub struct Module {
    /// The words of the module.
    pub words: Vec<u32>,
    /// (group, binding, whether it is a uniform buffer); else it is a storage buffer.
    pub bindings: Vec<(u32, u32, bool)>,
    /// Invocations of a workgroup.
    pub invocations: u32,
}

/// # Errors
/// The text isn't valid, or has no such entry point.
pub fn compile(source: &ShaderSource, checks: Checks) -> Result<Module> {
    let module = naga::front::wgsl::parse_str(&source.wgsl)
        .map_err(|error| anyhow!("{}: {}", source.name, error.emit_to_string(&source.wgsl)))?;
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::all());
    validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    let info = validator
        .validate(&module)
        .map_err(|error| anyhow!("{}: {}", source.name, error.emit_to_string(&source.wgsl)))?;
    let entry = module
        .entry_points
        .iter()
        .find(|entry| entry.name == source.entry_point)
        .with_context(|| format!("{} has no entry point {}", source.name, source.entry_point))?;
    let mut bindings: Vec<(u32, u32, bool)> = module
        .global_variables
        .iter()
        .filter_map(|(_, variable)| {
            let at = variable.binding.as_ref()?;
            Some((at.group, at.binding, variable.space == AddressSpace::Uniform))
        })
        .collect();
    bindings.sort_unstable();

    let checked = checks == Checks::Checked;
    let options = spv::Options {
        // What a device of Vulkan 1.3 gets.
        lang_version: (1, 6),
        flags: spv::WriterFlags::LABEL_VARYINGS | spv::WriterFlags::FORCE_POINT_SIZE,
        bounds_check_policies: BoundsCheckPolicies {
            index: if checked { BoundsCheckPolicy::Restrict } else { BoundsCheckPolicy::Unchecked },
            // The device's robust buffer access does it.
            buffer: BoundsCheckPolicy::Unchecked,
            image_load: BoundsCheckPolicy::Unchecked,
            binding_array: BoundsCheckPolicy::Unchecked,
        },
        zero_initialize_workgroup_memory: match checks {
            Checks::Checked => spv::ZeroInitializeWorkgroupMemoryMode::Native,
            Checks::Trusted => spv::ZeroInitializeWorkgroupMemoryMode::None,
        },
        force_loop_bounding: checked,
        // prflash leaves these on in both modes.
        emit_int_div_checks: true,
        use_storage_input_output_16: false,
        ..spv::Options::default()
    };
    let pipeline = spv::PipelineOptions {
        shader_stage: ShaderStage::Compute,
        entry_point: source.entry_point.to_owned(),
    };
    let words = spv::write_vec(&module, &info, &options, Some(&pipeline))
        .map_err(|error| anyhow!("{} in SPIR-V: {error}", source.name))?;
    Ok(Module { words, bindings, invocations: entry.workgroup_size.iter().product() })
}
