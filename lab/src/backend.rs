//! What a run needs before anything is computed: a device, or none, and a model.

use std::path::Path;

use anyhow::{Result, anyhow};
use prflash::Context;

use crate::attend::Attend;
use crate::config::Config;
use crate::cpu::CpuAttention;
use crate::gguf::ModelFile;
use crate::gpu::GpuAttention;
use crate::model::Model;
use crate::native::NativeAttention;
use crate::setting::Setting;
use crate::tokenizer::Tokenizer;

/// Who computes attention.
pub enum Backend {
    /// prflash, on this device.
    Gpu(Context),
    /// prflash's engine on CPU cores.
    Cpu,
    /// Plain loops in f32: a second opinion.
    Plain,
}

impl Backend {
    /// prflash on the device of this machine.
    ///
    /// # Errors
    /// There is none; says what helps.
    pub fn gpu() -> Result<Self> {
        Context::new_blocking().map(Backend::Gpu).map_err(|error| {
            anyhow!(
                "{error} (scripts/with-vulkan COMMAND brings a software device; --backend cpu needs none)"
            )
        })
    }

    /// As rows of results name it.
    pub fn name(&self) -> &'static str {
        match self {
            Backend::Gpu(_) => "gpu",
            Backend::Cpu => "cpu",
            Backend::Plain => "plain",
        }
    }

    /// The name of the device that computes.
    pub fn device(&self) -> String {
        self.adapter().unwrap_or("cpu").into()
    }

    /// The name of its adapter, if it has one.
    pub fn adapter(&self) -> Option<&str> {
        match self {
            Backend::Gpu(context) => Some(&context.capabilities().adapter),
            Backend::Cpu | Backend::Plain => None,
        }
    }

    /// The name and version of its driver, if it has one.
    pub fn driver(&self) -> Option<&str> {
        match self {
            Backend::Gpu(context) => Some(&context.capabilities().driver),
            Backend::Cpu | Backend::Plain => None,
        }
    }

    /// Attention for sequences of at most `max_tokens` tokens that come at most `chunk` at a time.
    ///
    /// # Errors
    /// What the device refuses; what the plain backend doesn't have.
    pub fn attention(
        &self,
        config: &Config,
        setting: &Setting,
        max_tokens: usize,
        chunk: usize,
    ) -> Result<Box<dyn Attend>> {
        Ok(match self {
            Backend::Gpu(context) => {
                Box::new(GpuAttention::new(context, config, setting, max_tokens, chunk)?)
            }
            Backend::Cpu => Box::new(NativeAttention::new(config, setting, max_tokens, chunk)?),
            Backend::Plain => Box::new(CpuAttention::new(config, setting)?),
        })
    }
}

/// A model ready to run.
pub struct Loaded {
    /// The file that the model came from.
    pub file: ModelFile,
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    /// Everything but attention.
    pub model: Model,
}

impl Loaded {
    /// Reads a file. `loaded` hears of each layer, and how many there are, and may stop it.
    ///
    /// # Errors
    /// As [`ModelFile::open`], [`Tokenizer::read`] and [`Model::load`].
    pub fn open(path: &Path, loaded: impl FnMut(usize, usize) -> Result<()>) -> Result<Self> {
        let file = ModelFile::open(path)?;
        let tokenizer = Tokenizer::read(&file)?;
        let model = Model::load(&file, loaded)?;
        Ok(Self { file, tokenizer, model })
    }

    /// The model's sizes and constants.
    pub fn config(&self) -> &Config {
        self.model.config()
    }
}
