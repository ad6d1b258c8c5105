//! A look at a GGUF header before candle's reader sees it.
//!
//! That reader divides by `general.alignment`, takes an alignment of another type than u32 for the
//! default, and lets a name that comes twice replace the first one. What it would trip over or pass
//! over is found here, by one walk through the header in which every length is bounded by the bytes
//! that the file still has.

use std::collections::HashSet;
use std::io::{BufRead, Seek};

use anyhow::{Context, Result, bail, ensure};

/// Longest key and tensor name: 2¹⁶ − 1 bytes in the specification of the format.
const MAX_NAME: u64 = (1 << 16) - 1;

/// Arrays inside arrays; candle's reader stops at 64.
const MAX_DEPTH: usize = 64;

/// Elements of all arrays together. Candle's reader takes 32 bytes for each, whatever it is in the
/// file.
const MAX_ELEMENTS: u64 = 1 << 24;

/// Dimensions of a tensor, as everywhere in ggml.
const MAX_DIMENSIONS: u32 = 4;

/// Where tensors begin, unless the file says otherwise: at multiples of this.
const DEFAULT_ALIGNMENT: u64 = 32;

const STRING: u32 = 8;
const ARRAY: u32 = 9;
const U32: u32 = 4;

/// Walks through the header of a file of `len` bytes, from its start.
///
/// # Errors
/// Not a header, or one that runs past the end of the file; names that come twice; an alignment
/// that is none; tensors without elements, with more than can be counted, or off the alignment.
pub(super) fn check(reader: impl BufRead + Seek, len: u64) -> Result<()> {
    let mut walk = Walk { reader, left: len, long: true, elements: 0 };
    let magic = walk.bytes::<4>()?;
    ensure!(&magic == b"GGUF", "it begins with {:?}, not with GGUF", String::from_utf8_lossy(&magic));
    let version = walk.u32()?;
    ensure!((1..=3).contains(&version), "version {version} of the format: expected 1 to 3, little-endian");
    walk.long = version > 1;
    let (tensors, keys) = (walk.length()?, walk.length()?);
    let alignment = walk.keys(keys).context("metadata")?;
    walk.tensors(tensors, alignment).context("tensors")
}

struct Walk<R> {
    reader: R,
    /// Bytes of the file behind the reader.
    left: u64,
    /// Whether lengths have 64 bits; in the first version of the format they have 32.
    long: bool,
    /// The elements of arrays that were counted so far.
    elements: u64,
}

impl<R: BufRead + Seek> Walk<R> {
    /// Counts bytes off those that the file has left.
    fn take(&mut self, bytes: u64) -> Result<()> {
        let left = self.left.checked_sub(bytes);
        self.left = left.with_context(|| format!("{bytes} bytes expected, {} left", self.left))?;
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N as u64)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn skip(&mut self, bytes: u64) -> Result<()> {
        self.take(bytes)?;
        // No file is longer than i64::MAX bytes.
        Ok(self.reader.seek_relative(bytes as i64)?)
    }

    fn u32(&mut self) -> Result<u32> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn length(&mut self) -> Result<u64> {
        if self.long { self.u64() } else { self.u32().map(u64::from) }
    }

    fn name(&mut self) -> Result<String> {
        let len = self.length()?;
        ensure!(len <= MAX_NAME, "a name of {len} bytes: expected at most {MAX_NAME}");
        self.take(len)?;
        let mut name = vec![0; len as usize];
        self.reader.read_exact(&mut name)?;
        Ok(String::from_utf8_lossy(&name).into_owned())
    }

    /// Reads past `count` keys and their values; the alignment.
    fn keys(&mut self, count: u64) -> Result<u64> {
        let (mut seen, mut alignment) = (HashSet::new(), DEFAULT_ALIGNMENT);
        for _ in 0..count {
            let key = self.name()?;
            let kind = self.u32().with_context(|| key.clone())?;
            if key == "general.alignment" {
                ensure!(kind == U32, "general.alignment is of type {kind}: expected a u32");
                alignment = self.u32()?.into();
                ensure!(
                    alignment >= 8 && alignment.is_power_of_two(),
                    "general.alignment = {alignment}: expected a power of two, 8 or more"
                );
            } else {
                self.value(kind, 0).with_context(|| key.clone())?;
            }
            if let Some(key) = seen.replace(key) {
                bail!("{key} comes twice");
            }
        }
        Ok(alignment)
    }

    /// Reads past a value.
    fn value(&mut self, kind: u32, depth: usize) -> Result<()> {
        ensure!(depth <= MAX_DEPTH, "arrays inside arrays, more than {MAX_DEPTH} deep");
        match kind {
            STRING => {
                let len = self.length()?;
                self.skip(len)
            }
            ARRAY => {
                let (kind, count) = (self.u32()?, self.length()?);
                self.elements = self.elements.saturating_add(count);
                ensure!(self.elements <= MAX_ELEMENTS, "more than {MAX_ELEMENTS} elements in lists");
                match size(kind) {
                    Some(size) => self.skip(count * size),
                    None => (0..count).try_for_each(|_| self.value(kind, depth + 1)),
                }
            }
            kind => self.skip(size(kind).with_context(|| format!("a value of unknown type {kind}"))?),
        }
    }

    fn tensors(&mut self, count: u64, alignment: u64) -> Result<()> {
        let mut seen = HashSet::new();
        for _ in 0..count {
            let name = self.name()?;
            self.tensor(alignment).with_context(|| name.clone())?;
            if let Some(name) = seen.replace(name) {
                bail!("{name} comes twice");
            }
        }
        Ok(())
    }

    fn tensor(&mut self, alignment: u64) -> Result<()> {
        let dimensions = self.u32()?;
        ensure!(dimensions <= MAX_DIMENSIONS, "{dimensions} dimensions: expected at most {MAX_DIMENSIONS}");
        let mut elements = Some(1u64);
        for _ in 0..dimensions {
            let size = self.length()?;
            ensure!(size > 0, "a dimension of 0");
            elements = elements.and_then(|elements| elements.checked_mul(size));
        }
        ensure!(elements.is_some(), "more than 2^64 elements");
        let (_type, offset) = (self.u32()?, self.u64()?);
        ensure!(offset.is_multiple_of(alignment), "offset {offset} is no multiple of {alignment}");
        Ok(())
    }
}

/// Bytes of a value of fixed size.
fn size(kind: u32) -> Option<u64> {
    Some(match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        _ => return None,
    })
}
