//! The header of a GGUF file: what the model is, and where its tensors lie.

use std::collections::BTreeMap;

use super::Refused;

/// The longest header that is read. That of SmolLM2 takes 2 MB, most of it the vocabulary.
pub(super) const MOST_BYTES: usize = 1 << 26;

/// Where tensors begin, unless the file says otherwise: at multiples of this.
const ALIGNMENT: f64 = 32.0;

/// Numbers of a tensor, at most: 2³² bytes are all that the page's memory can have.
const MOST_ELEMENTS: u64 = 1 << 32;

/// A value of the metadata. Numbers of any type are f64, which has all those of 53 bits.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Number(f64),
    Flag(bool),
    Text(String),
    List(Vec<Value>),
}

/// Where a tensor lies, and as what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The fastest axis first.
    pub dims: Vec<u64>,
    /// The number that the format has for how it is stored.
    pub form: u32,
    /// From the start of the file.
    pub offset: u64,
}

/// What a GGUF file says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    pub(super) metadata: BTreeMap<String, Value>,
    pub(super) tensors: BTreeMap<String, Entry>,
}

impl Header {
    /// Reads it from the first bytes of a file of `length` bytes; nothing if it may go on behind
    /// them.
    ///
    /// # Errors
    /// Another kind of file; a header that runs past the file's end, or takes more than 64 MiB.
    pub fn read(bytes: &[u8], length: u64) -> Result<Option<Self>, Refused> {
        match Walk(bytes).header() {
            Err(Refused::CutOff(_)) if bytes.len() >= MOST_BYTES => {
                Err(Refused::Unsupported("its header takes more than 64 MiB".into()))
            }
            Err(Refused::CutOff(_)) if (bytes.len() as u64) < length => Ok(None),
            found => found.map(Some),
        }
    }

    fn get(&self, key: &str) -> Result<&Value, Refused> {
        self.metadata.get(key).ok_or_else(|| Refused::Unsupported(format!("it doesn't say its {key}")))
    }

    /// A text.
    pub(super) fn text(&self, key: &str) -> Result<&str, Refused> {
        match self.get(key)? {
            Value::Text(text) => Ok(text),
            _ => Err(Refused::Unsupported(format!("its {key} is no text"))),
        }
    }

    /// A number.
    pub(super) fn number(&self, key: &str) -> Result<f64, Refused> {
        match *self.get(key)? {
            Value::Number(number) => Ok(number),
            _ => Err(Refused::Unsupported(format!("its {key} is no number"))),
        }
    }

    /// A whole number from 1 to 2²⁴.
    pub(super) fn size(&self, key: &str) -> Result<usize, Refused> {
        let number = self.number(key)?;
        let fits = number.fract() == 0.0 && (1.0..=f64::from(1 << 24)).contains(&number);
        if !fits {
            return Err(Refused::Unsupported(format!("its {key} is {number}")));
        }
        Ok(number as usize)
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &str) -> Result<Vec<&str>, Refused> {
        let wrong = || Refused::Unsupported(format!("its {key} is no list of texts"));
        let Value::List(list) = self.get(key)? else { return Err(wrong()) };
        let mut texts = Vec::with_capacity(list.len());
        for value in list {
            let Value::Text(text) = value else { return Err(wrong()) };
            texts.push(text.as_str());
        }
        Ok(texts)
    }

    /// Whether there is such a key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.metadata.contains_key(key)
    }
}

/// What is left to read.
struct Walk<'a>(&'a [u8]);

impl<'a> Walk<'a> {
    fn header(&mut self) -> Result<Header, Refused> {
        let length = self.0.len();
        if self.bytes(4)? != b"GGUF" {
            return Err(Refused::NotGguf);
        }
        let version = self.u32()?;
        if !(2..=3).contains(&version) {
            return Err(Refused::Unsupported(format!("version {version} of the format, not 2 or 3")));
        }
        let (tensors, keys) = (self.u64()?, self.u64()?);
        let mut metadata = BTreeMap::new();
        for _ in 0..keys {
            let key = self.text()?;
            let kind = self.u32()?;
            let value = self.value(kind, 0)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(Refused::Inconsistent(format!("{key} comes twice")));
            }
        }
        let mut entries = BTreeMap::new();
        for _ in 0..tensors {
            let name = self.text()?;
            let entry = self.entry(&name)?;
            if entries.insert(name.clone(), entry).is_some() {
                return Err(Refused::Inconsistent(format!("{name} comes twice")));
            }
        }
        // The tensors' offsets count from here.
        let alignment = match metadata.get("general.alignment") {
            None => ALIGNMENT,
            Some(&Value::Number(number)) if number >= 8.0 && (number as u64).is_power_of_two() => number,
            Some(_) => return Err(Refused::Unsupported("its general.alignment is no power of two".into())),
        };
        let start = ((length - self.0.len()) as u64).next_multiple_of(alignment as u64);
        for (name, entry) in &mut entries {
            let past = || Refused::CutOff(name.clone());
            entry.offset = entry.offset.checked_add(start).ok_or_else(past)?;
        }
        Ok(Header { metadata, tensors: entries })
    }

    fn entry(&mut self, name: &str) -> Result<Entry, Refused> {
        let count = self.u32()?;
        let wrong = |what: &str| Refused::Unsupported(format!("{name} has {what}"));
        if count > 4 {
            return Err(wrong("more than 4 dimensions"));
        }
        let dims = (0..count).map(|_| self.u64()).collect::<Result<Vec<_>, _>>()?;
        let elements = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
        if elements.is_none_or(|elements| elements == 0 || elements > MOST_ELEMENTS) {
            return Err(wrong("no elements, or too many"));
        }
        Ok(Entry { dims, form: self.u32()?, offset: self.u64()? })
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value, Refused> {
        Ok(match kind {
            0 => Value::Number(self.array::<1>()?[0].into()),
            1 => Value::Number(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Number(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Number(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Number(self.u32()?.into()),
            5 => Value::Number(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Number(f32::from_le_bytes(self.array()?).into()),
            7 => Value::Flag(self.array::<1>()?[0] != 0),
            8 => Value::Text(self.text()?),
            9 if depth < 4 => {
                let (kind, count) = (self.u32()?, self.u64()?);
                // As it comes: room for a count that the file makes up isn't there.
                let mut list = Vec::new();
                for _ in 0..count {
                    list.push(self.value(kind, depth + 1)?);
                }
                Value::List(list)
            }
            10 => Value::Number(self.u64()? as f64),
            11 => Value::Number(i64::from_le_bytes(self.array()?) as f64),
            12 => Value::Number(f64::from_le_bytes(self.array()?)),
            _ => return Err(Refused::Unsupported(format!("metadata of the unknown type {kind}"))),
        })
    }

    fn text(&mut self) -> Result<String, Refused> {
        let length = self.u64()?;
        let length = usize::try_from(length).map_err(|_| cut_off())?;
        Ok(String::from_utf8_lossy(self.bytes(length)?).into_owned())
    }

    fn u32(&mut self) -> Result<u32, Refused> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Refused> {
        self.array().map(u64::from_le_bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Refused> {
        let (array, rest) = self.0.split_first_chunk().ok_or_else(cut_off)?;
        self.0 = rest;
        Ok(*array)
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Refused> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or_else(cut_off)?;
        self.0 = rest;
        Ok(bytes)
    }
}

fn cut_off() -> Refused {
    Refused::CutOff("its header".into())
}
