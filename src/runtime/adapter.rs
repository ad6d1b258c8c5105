//! Which adapter a context takes.

#[cfg(not(target_arch = "wasm32"))]
use std::sync::OnceLock;

use super::options::ContextOptions;
use crate::error::{Error, Result};

/// What of the options and of wgpu's environment variables chooses an adapter.
#[derive(Clone, Debug, PartialEq)]
struct Wish {
    backends: wgpu::Backends,
    /// A part of the adapter's name, in lower case; never empty.
    name: Option<String>,
    power_preference: wgpu::PowerPreference,
}

impl Wish {
    /// Options go before the environment, and what is empty there counts as unset.
    fn new(options: &ContextOptions, variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name| variable(name).filter(|value| !value.trim().is_empty());
        let given = options.adapter_name.clone().filter(|name| !name.trim().is_empty());
        let name = given.or_else(|| variable("WGPU_ADAPTER_NAME"));
        let backends = variable("WGPU_BACKEND").map(|list| wgpu::Backends::from_comma_list(&list));
        let preference = || match variable("WGPU_POWER_PREF")?.to_lowercase().as_str() {
            "low" => Some(wgpu::PowerPreference::LowPower),
            "high" => Some(wgpu::PowerPreference::HighPerformance),
            "none" => Some(wgpu::PowerPreference::None),
            _ => None,
        };
        Self {
            backends: options.backends.or(backends).unwrap_or(wgpu::Backends::all()),
            name: name.map(|name| name.to_lowercase()),
            power_preference: options
                .power_preference
                .or_else(preference)
                .unwrap_or(wgpu::PowerPreference::HighPerformance),
        }
    }

    /// The adapter that it chooses: of those of the backends, and with the name, the first of the
    /// best type.
    fn choose(&self, adapters: &[wgpu::AdapterInfo]) -> Option<usize> {
        let fits = |info: &wgpu::AdapterInfo| {
            self.backends.contains(info.backend.into())
                && self.name.as_ref().is_none_or(|name| info.name.to_lowercase().contains(name))
        };
        let fitting = (0..adapters.len()).filter(|&index| fits(&adapters[index]));
        fitting.min_by_key(|&index| self.rank(adapters[index].device_type))
    }

    /// The less, the better. The order is that of `wgpu::Instance::request_adapter`.
    fn rank(&self, device_type: wgpu::DeviceType) -> u8 {
        use wgpu::{DeviceType, PowerPreference};
        match (self.power_preference, device_type) {
            (PowerPreference::None, _) => 0,
            (PowerPreference::LowPower, DeviceType::IntegratedGpu) => 1,
            (PowerPreference::LowPower, DeviceType::DiscreteGpu) => 2,
            (PowerPreference::HighPerformance, DeviceType::DiscreteGpu) => 1,
            (PowerPreference::HighPerformance, DeviceType::IntegratedGpu) => 2,
            (_, DeviceType::Other) => 3,
            (_, DeviceType::VirtualGpu) => 4,
            (_, DeviceType::Cpu) => 5,
        }
    }
}

/// The adapter that the options and the environment choose.
pub(super) async fn find(options: &ContextOptions) -> Result<wgpu::Adapter> {
    if wgpu::Instance::enabled_backend_features().is_empty() {
        return Err(Error::no_adapter(
            "prflash was built without a backend for this platform: enable one of the features vulkan, metal, dx12, webgpu",
        ));
    }
    let wish = Wish::new(options, |name| std::env::var(name).ok());
    #[cfg(target_arch = "wasm32")]
    {
        // A browser shows one adapter, by preference.
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
        let adapter = instance
            .request_adapter(&wgpu::RequestAdapterOptions {
                power_preference: wish.power_preference,
                ..Default::default()
            })
            .await
            .map_err(|error| {
                log::info!("no WebGPU: {error}");
                Error::no_adapter(
                    "this browser offers no WebGPU here: it takes one that has it switched on, and a page that came \
                     over https or from localhost",
                )
            })?;
        let found = [adapter.get_info()];
        wish.choose(&found).map(|_| adapter).ok_or_else(|| none_of(&wish, &found))
    }
    #[cfg(not(target_arch = "wasm32"))]
    {
        let mut adapters = instance().enumerate_adapters(wish.backends).await;
        let found: Vec<wgpu::AdapterInfo> = adapters.iter().map(wgpu::Adapter::get_info).collect();
        match wish.choose(&found) {
            Some(index) => Ok(adapters.swap_remove(index)),
            None => Err(none_of(&wish, &found)),
        }
    }
}

fn none_of(wish: &Wish, found: &[wgpu::AdapterInfo]) -> Error {
    let backends = wish.backends;
    let names: Vec<&str> = found.iter().map(|info| info.name.as_str()).collect();
    let of = match backends == wgpu::Backends::all() {
        true => String::new(),
        false => {
            format!(" for {}", backends.iter_names().map(|(name, _)| name).collect::<Vec<_>>().join(", "))
        }
    };
    match &wish.name {
        Some(name) => Error::no_adapter(format!("none is named like {name:?}; found {names:?}")),
        None => Error::no_adapter(format!(
            "there is none{of} (scripts/with-vulkan, in prflash's repository, brings a software one)"
        )),
    }
}

/// The one instance of this process, on which all devices that we open are: wgpu tells resources of
/// different instances apart by nothing.
#[cfg(not(target_arch = "wasm32"))]
fn instance() -> &'static wgpu::Instance {
    static INSTANCE: OnceLock<wgpu::Instance> = OnceLock::new();
    INSTANCE.get_or_init(|| {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
        // Contexts may each ask for others.
        descriptor.backends = wgpu::Backends::all();
        wgpu::Instance::new(descriptor)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(name: &str, device_type: wgpu::DeviceType, backend: wgpu::Backend) -> wgpu::AdapterInfo {
        wgpu::AdapterInfo { name: name.to_owned(), ..wgpu::AdapterInfo::new(device_type, backend) }
    }

    fn adapters() -> Vec<wgpu::AdapterInfo> {
        use wgpu::{Backend, DeviceType};
        vec![
            adapter("llvmpipe (LLVM 21)", DeviceType::Cpu, Backend::Vulkan),
            adapter("Integrated Graphics 770", DeviceType::IntegratedGpu, Backend::Vulkan),
            adapter("Discrete RX", DeviceType::DiscreteGpu, Backend::Vulkan),
            adapter("Discrete RX", DeviceType::DiscreteGpu, Backend::Dx12),
            adapter("Basic Render Driver", DeviceType::Cpu, Backend::Dx12),
        ]
    }

    fn chosen(options: &ContextOptions, variables: &[(&str, &str)]) -> Option<usize> {
        let variable = |name: &str| {
            variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned())
        };
        Wish::new(options, variable).choose(&adapters())
    }

    #[test]
    fn the_fastest_unless_asked_otherwise() {
        let options = ContextOptions::new();
        assert_eq!(chosen(&options, &[]), Some(2));
        assert_eq!(chosen(&options, &[("WGPU_POWER_PREF", "low")]), Some(1));
        assert_eq!(chosen(&options, &[("WGPU_POWER_PREF", "none")]), Some(0));
        assert_eq!(chosen(&options, &[("WGPU_ADAPTER_NAME", "LLVM")]), Some(0));
        assert_eq!(chosen(&options, &[("WGPU_BACKEND", "dx12")]), Some(3));
        assert_eq!(chosen(&options, &[("WGPU_BACKEND", "dx12"), ("WGPU_ADAPTER_NAME", "basic")]), Some(4));
        assert_eq!(chosen(&options, &[("WGPU_ADAPTER_NAME", "no such adapter")]), None);
        assert_eq!(chosen(&options, &[("WGPU_BACKEND", "metal")]), None);
    }

    #[test]
    fn what_is_empty_is_unset() {
        let options = ContextOptions::new();
        for name in ["WGPU_ADAPTER_NAME", "WGPU_BACKEND", "WGPU_POWER_PREF"] {
            assert_eq!(chosen(&options, &[(name, "")]), Some(2), "{name}");
            assert_eq!(chosen(&options, &[(name, " ")]), Some(2), "{name}");
        }
        assert_eq!(chosen(&ContextOptions::new().adapter_name(""), &[]), Some(2));
        let environment = [("WGPU_ADAPTER_NAME", "integrated")];
        assert_eq!(chosen(&ContextOptions::new().adapter_name(""), &environment), Some(1));
    }

    #[test]
    fn options_go_before_the_environment() {
        let environment =
            [("WGPU_ADAPTER_NAME", "llvmpipe"), ("WGPU_BACKEND", "dx12"), ("WGPU_POWER_PREF", "low")];
        let options = ContextOptions::new()
            .adapter_name("r")
            .backends(wgpu::Backends::VULKAN)
            .power_preference(wgpu::PowerPreference::HighPerformance);
        assert_eq!(chosen(&options, &environment), Some(2));
    }

    #[test]
    fn of_several_with_the_name_the_fastest() {
        let options = ContextOptions::new().adapter_name("i");
        assert_eq!(chosen(&options, &[]), Some(2));
    }
}
