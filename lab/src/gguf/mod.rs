//! GGUF files: metadata and tensors, with errors that name the file.

mod header;

use std::cell::RefCell;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::{QMatMul, QTensor};
use candle_core::{Device, Tensor};
use sha2::{Digest, Sha256};

/// An open GGUF file.
pub struct ModelFile {
    path: PathBuf,
    content: Content,
    reader: RefCell<BufReader<File>>,
}

impl ModelFile {
    /// Opens a file and reads its metadata.
    ///
    /// # Errors
    /// Names the file: it can't be opened, or isn't a GGUF file.
    pub fn open(path: &Path) -> Result<Self> {
        let at = || format!("model {}", path.display());
        let file = File::open(path).with_context(at)?;
        let metadata = file.metadata().with_context(at)?;
        ensure!(!metadata.is_dir(), "{}: expected a file, got a directory", at());
        let mut reader = BufReader::new(file);
        let unreadable = || format!("{}: not a readable GGUF file", at());
        header::check(&mut reader, metadata.len()).with_context(unreadable)?;
        reader.rewind().with_context(at)?;
        let content = Content::read(&mut reader).with_context(unreadable)?;
        Ok(Self { path: path.to_owned(), content, reader: RefCell::new(reader) })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's name without its folder.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// A metadata value, if the file has it.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(key)
    }

    fn require(&self, key: &str) -> Result<&Value> {
        self.get(key).with_context(|| format!("model {}: no metadata {key}", self.path.display()))
    }

    fn wrong(&self, key: &str, expected: &str) -> String {
        format!("model {}: metadata {key} is not {expected}", self.path.display())
    }

    /// A text.
    ///
    /// # Errors
    /// Missing, or of another type.
    pub fn text(&self, key: &str) -> Result<&str> {
        Ok(self.require(key)?.to_string().with_context(|| self.wrong(key, "a text"))?)
    }

    /// A whole number.
    ///
    /// # Errors
    /// Missing, or of another type.
    pub fn number(&self, key: &str) -> Result<usize> {
        let value = self.require(key)?;
        let number = match value {
            Value::I32(number) => u64::try_from(*number).ok(),
            value => value.to_u64().ok(),
        };
        number
            .and_then(|number| usize::try_from(number).ok())
            .with_context(|| self.wrong(key, "a whole number"))
    }

    /// A real number.
    ///
    /// # Errors
    /// Missing, or of another type.
    pub fn float(&self, key: &str) -> Result<f64> {
        let value = self.require(key)?;
        let number = value.to_f32().map(f64::from).or_else(|_| value.to_f64());
        number.ok().with_context(|| self.wrong(key, "a real number"))
    }

    /// A yes or no, if the file has it.
    ///
    /// # Errors
    /// Of another type.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.get(key).map(|value| value.to_bool().with_context(|| self.wrong(key, "a bool"))).transpose()
    }

    /// A list.
    ///
    /// # Errors
    /// Missing, or an element that `each` doesn't take.
    pub fn list<T>(&self, key: &str, each: impl Fn(&Value) -> candle_core::Result<T>) -> Result<Vec<T>> {
        let values = self.require(key)?.to_vec().with_context(|| self.wrong(key, "a list"))?;
        values
            .iter()
            .map(each)
            .collect::<candle_core::Result<_>>()
            .with_context(|| self.wrong(key, "as expected"))
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }

    fn tensor(&self, name: &str, dims: &[usize]) -> Result<QTensor> {
        let at = || format!("model {}: tensor {name}", self.path.display());
        let info = self.content.tensor_infos.get(name).with_context(|| format!("{} is missing", at()))?;
        if info.shape.dims() != dims {
            bail!("{}: expected the shape {dims:?}, got {:?}", at(), info.shape.dims());
        }
        let mut reader = self.reader.borrow_mut();
        self.content.tensor(&mut *reader, name, &Device::Cpu).with_context(at)
    }

    /// A vector in f32.
    ///
    /// # Errors
    /// Missing, of another length, or cut off.
    pub fn vector(&self, name: &str, len: usize) -> Result<Tensor> {
        Ok(self.tensor(name, &[len])?.dequantize(&Device::Cpu)?)
    }

    /// A matrix `[outputs, inputs]` in f32.
    ///
    /// Candle could multiply matrices as they are stored, but rounds activations to 8 bits for it, and at these sizes takes longer.
    ///
    /// # Errors
    /// Missing, of another shape, or cut off.
    pub fn matrix(&self, name: &str, [outputs, inputs]: [usize; 2]) -> Result<QMatMul> {
        Ok(QMatMul::Tensor(self.tensor(name, &[outputs, inputs])?.dequantize(&Device::Cpu)?))
    }

    /// The SHA-256 of the whole file, in hexadecimal.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn sha256(&self) -> Result<String> {
        let at = || format!("model {}", self.path.display());
        let mut file = File::open(&self.path).with_context(at)?;
        let (mut hash, mut chunk) = (Sha256::new(), vec![0; 1 << 20]);
        loop {
            let read = file.read(&mut chunk).with_context(at)?;
            if read == 0 {
                return Ok(hex(&hash.finalize()));
            }
            hash.update(&chunk[..read]);
        }
    }
}

/// The SHA-256 of bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
