//! What computes attention in an example: the option that chooses it, and what it is.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::error::ErrorKind;
use clap::{Args, ValueEnum};
use prflash::{Context, ContextOptions};
use serde_json::{Value, json};

use crate::example;

/// The options of examples that compute attention by whatever there is.
#[derive(Args, Clone, Debug, Default)]
pub struct Computing {
    /// What computes attention. [default: gpu where there is an adapter, else native]
    #[arg(long, value_enum)]
    pub backend: Option<Computes>,
    /// Only an adapter whose name contains this.
    #[arg(long)]
    pub adapter: Option<String>,
}

/// What may compute attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Computes {
    /// The library's kernels, on the adapter that wgpu prefers.
    Gpu,
    /// The library's engine on CPU cores.
    Native,
    /// The f64 reference: slow, so that fewer tokens are the default.
    Reference,
}

/// What computes attention here.
pub enum Backend {
    /// The kernels, on this device.
    Gpu(Context),
    /// The engine on CPU cores.
    Native,
    /// The f64 reference.
    Reference,
}

impl Computing {
    /// Opens what was asked for: by default a GPU, and where there is none the native engine, which
    /// is then said on the standard error.
    ///
    /// # Errors
    /// There is no adapter, though a GPU was asked for (an adapter's name, also by
    /// `WGPU_ADAPTER_NAME`, asks for one), or it can't be opened.
    pub fn open(&self, options: ContextOptions) -> Result<Backend> {
        self.checked().unwrap_or_else(|error| error.exit());
        match self.backend {
            Some(Computes::Native) => return Ok(Backend::Native),
            Some(Computes::Reference) => return Ok(Backend::Reference),
            Some(Computes::Gpu) | None => {}
        }
        let options = self.adapter.iter().fold(options, |options, name| options.adapter_name(name));
        // A named adapter that isn't there is a mistake, not a machine without a GPU.
        let named = self.adapter.is_some() || std::env::var_os("WGPU_ADAPTER_NAME").is_some();
        match Context::with_options_blocking(&options) {
            Ok(context) => Ok(Backend::Gpu(context)),
            Err(error) if error.is_no_adapter() && !named && self.backend.is_none() => {
                eprintln!("{error}\nThe native engine computes on this machine's CPU cores instead.\n");
                Ok(Backend::Native)
            }
            Err(error) => Err(error).context("opening the GPU"),
        }
    }

    fn checked(&self) -> Result<(), clap::Error> {
        let without = self.backend.filter(|backend| *backend != Computes::Gpu);
        let (Some(backend), Some(_)) = (without, &self.adapter) else { return Ok(()) };
        let name = backend.to_possible_value().map(|value| value.get_name().to_owned());
        let message =
            format!("--adapter names a GPU, which --backend {} has none of\n", name.unwrap_or_default());
        Err(clap::Error::raw(ErrorKind::ArgumentConflict, message))
    }
}

impl Backend {
    /// The device of the GPU, if that computes.
    pub fn context(&self) -> Option<&Context> {
        match self {
            Backend::Gpu(context) => Some(context),
            Backend::Native | Backend::Reference => None,
        }
    }

    /// The JSON object of an example, as [`example::object`]; without a device its `backend` is
    /// `native` or `reference`.
    ///
    /// # Errors
    /// None in practice: nothing here is not JSON.
    pub fn object(&self, example: &str, pictures: &[PathBuf], fields: Value) -> Result<String> {
        let backend = match self {
            Backend::Gpu(context) => return example::object(example, Some(context), pictures, fields),
            Backend::Native => "native",
            Backend::Reference => "reference",
        };
        example::object_by(example, None, json!(backend), pictures, fields)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Backend::Gpu(context) => write!(f, "{}", context.capabilities()),
            Backend::Native => {
                let threads = std::thread::available_parallelism().map_or(1, usize::from);
                write!(f, "the native engine on this machine's CPU ({threads} threads)")
            }
            Backend::Reference => write!(f, "the CPU reference (f64)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        computing: Computing,
    }

    fn parsed(arguments: &[&str]) -> Result<Computing, clap::Error> {
        Ok(Arguments::try_parse_from([&["example"], arguments].concat())?.computing)
    }

    #[test]
    fn backends_are_chosen_by_name() {
        assert_eq!(parsed(&[]).unwrap().backend, None);
        for (name, computes) in
            [("gpu", Computes::Gpu), ("native", Computes::Native), ("reference", Computes::Reference)]
        {
            assert_eq!(parsed(&["--backend", name]).unwrap().backend, Some(computes));
        }
        let refused = parsed(&["--backend", "cpu"]).err().unwrap();
        assert_eq!((refused.kind(), refused.exit_code()), (ErrorKind::InvalidValue, 2));
        let text = refused.to_string();
        assert!(["gpu", "native", "reference"].iter().all(|name| text.contains(name)), "{text}");
    }

    #[test]
    fn an_adapter_is_a_gpus() {
        assert!(parsed(&["--backend", "gpu", "--adapter", "llvm"]).unwrap().checked().is_ok());
        assert!(parsed(&["--adapter", "llvm"]).unwrap().checked().is_ok());
        let both = parsed(&["--backend", "native", "--adapter", "llvm"]).unwrap();
        let refused = both.checked().unwrap_err();
        assert_eq!((refused.kind(), refused.exit_code()), (ErrorKind::ArgumentConflict, 2));
        assert!(refused.to_string().contains("--backend native"), "{refused}");
    }

    #[test]
    fn objects_say_what_computed() {
        for (backend, name) in [(Backend::Native, "native"), (Backend::Reference, "reference")] {
            let text = backend.object("quickstart", &[], json!({ "tokens": 8 })).unwrap();
            let object: Value = serde_json::from_str(&text).unwrap();
            assert_eq!((&object["backend"], &object["tokens"]), (&json!(name), &json!(8)));
            assert_eq!(object["adapter"], Value::Null);
        }
        let chosen = parsed(&["--backend", "native"]).unwrap().open(ContextOptions::new()).unwrap();
        assert!(matches!(chosen, Backend::Native) && chosen.context().is_none());
        assert!(chosen.to_string().contains("native engine"), "{chosen}");
    }
}
