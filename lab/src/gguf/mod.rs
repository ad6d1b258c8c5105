//! GGUF files: metadata and tensors, with errors that name the file.

mod header;
mod keys;

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::{QMatMul, QTensor};
use candle_core::{Device, Tensor};
use sha2::{Digest, Sha256};

/// An open GGUF file, which knows what of it was read: what wasn't may be what makes the model.
pub struct ModelFile {
    path: PathBuf,
    content: Content,
    reader: RefCell<BufReader<File>>,
    /// Keys and tensors that somebody asked for.
    keys_read: RefCell<HashSet<String>>,
    tensors_read: RefCell<HashSet<String>>,
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
        Ok(Self {
            path: path.to_owned(),
            content,
            reader: RefCell::new(reader),
            keys_read: RefCell::default(),
            tensors_read: RefCell::default(),
        })
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's name without its folder.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// A metadata value, if the file has it.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let value = self.content.metadata.get(key)?;
        self.keys_read.borrow_mut().insert(key.to_owned());
        Some(value)
    }

    fn require(&self, key: &str) -> Result<&Value> {
        self.get(key).with_context(|| format!("model {}: no metadata {key}", self.path.display()))
    }

    /// An error that names the file, a key and its value.
    pub fn refusal(&self, key: &str, why: &str) -> Error {
        anyhow!("model {}: {}: {why}", self.path.display(), self.shown(key))
    }

    /// `key = value`.
    fn shown(&self, key: &str) -> String {
        self.content.metadata.get(key).map_or(key.to_owned(), |value| format!("{key} = {}", shown(value)))
    }

    /// What `read` makes of a key, if the file has it: `file.optional(key, ModelFile::number)`.
    ///
    /// # Errors
    /// As `read`: a key of another type is no missing one.
    pub fn optional<'a, T>(
        &'a self,
        key: &str,
        read: impl Fn(&'a Self, &str) -> Result<T>,
    ) -> Result<Option<T>> {
        self.content.metadata.contains_key(key).then(|| read(self, key)).transpose()
    }

    /// The text under a key.
    ///
    /// # Errors
    /// Missing, or of another type.
    pub fn text(&self, key: &str) -> Result<&str> {
        match self.require(key)? {
            Value::String(text) => Ok(text),
            _ => Err(self.refusal(key, "expected a text")),
        }
    }

    /// A whole number.
    ///
    /// # Errors
    /// Missing, or of another type.
    pub fn number(&self, key: &str) -> Result<usize> {
        let number = whole(self.require(key)?).and_then(|number| usize::try_from(number).ok());
        number.ok_or_else(|| self.refusal(key, "expected a whole number of at least 0"))
    }

    /// A real number.
    ///
    /// # Errors
    /// Missing, of another type, or not finite.
    pub fn float(&self, key: &str) -> Result<f64> {
        let number = match *self.require(key)? {
            Value::F32(number) => Some(f64::from(number)),
            Value::F64(number) => Some(number),
            _ => None,
        };
        let finite = number.filter(|number| number.is_finite());
        finite.ok_or_else(|| self.refusal(key, "expected a finite real number"))
    }

    /// Yes or no.
    ///
    /// # Errors
    /// Missing, or of another type.
    pub fn flag(&self, key: &str) -> Result<bool> {
        match self.require(key)? {
            Value::Bool(flag) => Ok(*flag),
            _ => Err(self.refusal(key, "expected true or false")),
        }
    }

    /// The list under a key.
    ///
    /// # Errors
    /// Missing, or an element that `each` doesn't take.
    pub fn list<T>(&self, key: &str, each: impl Fn(&Value) -> candle_core::Result<T>) -> Result<Vec<T>> {
        let Value::Array(values) = self.require(key)? else {
            return Err(self.refusal(key, "expected a list"));
        };
        values
            .iter()
            .map(each)
            .collect::<candle_core::Result<_>>()
            .with_context(|| format!("model {}: metadata {key}", self.path.display()))
    }

    /// Refuses the keys of a group that nobody read and that aren't known to change nothing.
    ///
    /// # Errors
    /// Names them, with their values.
    pub fn refuse_unread_keys(&self, group: KeyGroup) -> Result<()> {
        let architecture = self.text("general.architecture")?;
        let read = self.keys_read.borrow();
        let unread = |(key, value): &(&String, &Value)| {
            group == KeyGroup::of(key)
                && !read.contains(key.as_str())
                && !keys::is_harmless(key, value, architecture)
        };
        let unread = self.content.metadata.iter().filter(unread);
        let unread: Vec<String> = unread.map(|(key, _)| self.shown(key)).collect();
        self.refuse(unread, "metadata", "nothing in the lab applies it, and it may change the model")
    }

    /// Refuses tensors that nobody read.
    ///
    /// # Errors
    /// Names them.
    pub fn refuse_unread_tensors(&self) -> Result<()> {
        let read = self.tensors_read.borrow();
        let names = self.content.tensor_infos.keys();
        let unread = names.filter(|name| !read.contains(name.as_str())).cloned().collect();
        self.refuse(unread, "tensor", "nothing in the lab computes with it")
    }

    fn refuse(&self, mut unread: Vec<String>, what: &str, why: &str) -> Result<()> {
        unread.sort();
        let Some((first, more)) = unread.split_first() else { return Ok(()) };
        let others = match more.len() {
            0 => String::new(),
            count => {
                let listed = more.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
                let rest = if count > 4 { ", …" } else { "" };
                format!(" ({count} more like it: {listed}{rest})")
            }
        };
        bail!("model {}: {what} {first}: {why}{others}", self.path.display())
    }

    /// How many tensors there are.
    pub fn tensor_count(&self) -> usize {
        self.content.tensor_infos.len()
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
        self.tensors_read.borrow_mut().insert(name.to_owned());
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
    /// Candle could multiply matrices as they are stored, but rounds activations to 8 bits for it,
    /// and at these sizes takes longer.
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

/// Whose keys are whose to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyGroup {
    /// The keys of the tokenizer.
    Tokenizer,
    /// All others: those of the model, and any that are nobody's.
    Model,
}

impl KeyGroup {
    fn of(key: &str) -> Self {
        if key.starts_with("tokenizer.") { KeyGroup::Tokenizer } else { KeyGroup::Model }
    }
}

/// A whole number of any type, unless it is negative.
fn whole(value: &Value) -> Option<u64> {
    match *value {
        Value::U8(number) => Some(number.into()),
        Value::U16(number) => Some(number.into()),
        Value::U32(number) => Some(number.into()),
        Value::U64(number) => Some(number),
        Value::I8(number) => number.try_into().ok(),
        Value::I16(number) => number.try_into().ok(),
        Value::I32(number) => number.try_into().ok(),
        Value::I64(number) => number.try_into().ok(),
        _ => None,
    }
}

/// A value as an error shows it: long texts by their beginning, lists by their length.
fn shown(value: &Value) -> String {
    match value {
        Value::U8(number) => number.to_string(),
        Value::I8(number) => number.to_string(),
        Value::U16(number) => number.to_string(),
        Value::I16(number) => number.to_string(),
        Value::U32(number) => number.to_string(),
        Value::I32(number) => number.to_string(),
        Value::U64(number) => number.to_string(),
        Value::I64(number) => number.to_string(),
        Value::F32(number) => number.to_string(),
        Value::F64(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::String(text) if text.chars().count() <= 60 => format!("{text:?}"),
        Value::String(text) => format!("{:?}…", text.chars().take(50).collect::<String>()),
        Value::Array(values) => format!("a list of {}", values.len()),
    }
}

/// The SHA-256 of bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
