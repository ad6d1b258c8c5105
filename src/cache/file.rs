//! A saved sequence: see [`HostCache::save`](super::HostCache::save).

use super::codec::Codec;
use super::form::CacheForm;
use super::ladder::{Ladder, Rung, Side};
use super::sequence::{Sequence, Store, StoredKeys};
use super::staircase::Staircase;
use super::words::padded;
use crate::checksum::fnv1a;
use crate::error::{Error, Result, ensure};
use crate::shape::Shape;

const MAGIC: [u8; 8] = *b"prflash\0";
/// The version of files without summaries.
const VERSION: u32 = 1;
/// The version of files with summaries: the header has their tokens behind W.
const WITH_SUMMARIES: u32 = 2;
/// The version of files with rotated codes: the header has the codec and its fine tokens behind W.
const ROTATED: u32 = 3;
/// The version of files with rotated codes and summaries: the tokens of these come first.
const ROTATED_WITH_SUMMARIES: u32 = 4;
/// What these files call the codec.
const ROTATED_CODEC: usize = 1;
/// Magic, version, bytes.
const PREFIX: usize = 20;
const CHECKSUM: usize = 8;

/// A sequence of a cache of this form as bytes.
pub(super) fn write(form: &CacheForm, sequence: &Sequence) -> Vec<u8> {
    let CacheForm { staircase, shape, keys } = form;
    let mut words: Vec<u32> = Vec::new();
    // Lengths and sizes are below 2³².
    let mut put = |numbers: &[usize]| words.extend(numbers.iter().map(|&number| number as u32));
    put(&[shape.kv_heads(), shape.head_dim(), shape.value_dim(), *keys as usize]);
    put(&[
        staircase.segment(),
        staircase.group(),
        staircase.sinks(),
        staircase.given_residual().unwrap_or(0),
    ]);
    if let Some(tokens) = staircase.summaries() {
        put(&[tokens]);
    }
    if staircase.codec().is_rotated() {
        put(&[ROTATED_CODEC, staircase.codec().fine_tokens()]);
    }
    let ladders = Side::ALL.map(|side| staircase.ladder(side).rungs());
    put(&ladders.map(<[Rung]>::len));
    for rung in ladders.concat() {
        put(&[rung.bits as usize, rung.segments.unwrap_or(0)]);
    }
    put(&[sequence.len, sequence.segments]);
    for store in &sequence.stores {
        words.extend(&store.sinks);
        store.packs.iter().for_each(|pack| words.extend(pack));
        words.extend(&store.residual);
    }
    let bytes = PREFIX + 4 * words.len() + CHECKSUM;
    let mut file = Vec::with_capacity(bytes);
    file.extend(MAGIC);
    let version = match (staircase.codec().is_rotated(), staircase.summaries()) {
        (false, None) => VERSION,
        (false, Some(_)) => WITH_SUMMARIES,
        (true, None) => ROTATED,
        (true, Some(_)) => ROTATED_WITH_SUMMARIES,
    };
    file.extend(version.to_le_bytes());
    file.extend((bytes as u64).to_le_bytes());
    file.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    file.extend(fnv1a(&file).to_le_bytes());
    file
}

/// The sequence in these bytes, and the form of the cache that it is of.
pub(super) fn read(bytes: &[u8]) -> Result<(CacheForm, Sequence)> {
    let (version, mut words) = open(bytes)?;
    let (staircase, shape, keys) = read_header(version, &mut words)?;
    let form = CacheForm::new(staircase, &shape, keys)
        .map_err(|error| Error::corrupt(format!("impossible header: {error}")))?;
    let sequence = read_sequence(&mut words, &form)?;
    Ok((form, sequence))
}

/// The sequence in these bytes, if they are of a cache of this form.
pub(super) fn read_same(form: &CacheForm, bytes: &[u8]) -> Result<Sequence> {
    let (other, sequence) = read(bytes)?;
    let differing = [
        ("staircases", other.staircase != form.staircase),
        ("sizes", other.shape != form.shape),
        ("rotations", other.keys != form.keys),
    ];
    for (what, differs) in differing {
        ensure!(
            !differs,
            "bytes",
            "expected a cache of the same sizes, staircase and rotation; the {what} differ"
        );
    }
    Ok(sequence)
}

/// Checks all that doesn't depend on the content, and gives the version, and the words between the
/// prefix and the checksum.
fn open(bytes: &[u8]) -> Result<(u32, Words<'_>)> {
    let cut = || Error::corrupt(format!("the file is cut off: {} bytes", bytes.len()));
    let (magic, rest) = bytes.split_first_chunk().ok_or_else(cut)?;
    if *magic != MAGIC {
        return Err(Error::corrupt("not a saved cache"));
    }
    let (version, rest) = rest.split_first_chunk().ok_or_else(cut)?;
    let version = u32::from_le_bytes(*version);
    if !(VERSION..=ROTATED_WITH_SUMMARIES).contains(&version) {
        return Err(Error::unknown_version(format!(
            "expected version {VERSION} to {ROTATED_WITH_SUMMARIES} of a saved cache, got {version}"
        )));
    }
    let (length, _) = rest.split_first_chunk().ok_or_else(cut)?;
    let length = u64::from_le_bytes(*length);
    if length > bytes.len() as u64 {
        return Err(Error::corrupt(format!("the file is cut off: {} of {length} bytes", bytes.len())));
    }
    let body = bytes.split_last_chunk().filter(|_| length == bytes.len() as u64 && length % 4 == 0);
    let Some((content, checksum)) = body.filter(|(content, _)| content.len() >= PREFIX) else {
        return Err(Error::corrupt(format!("expected {length} bytes, got {}", bytes.len())));
    };
    if u64::from_le_bytes(*checksum) != fnv1a(content) {
        return Err(Error::corrupt("the checksum doesn't match"));
    }
    Ok((version, Words(&content[PREFIX..])))
}

/// Words not read yet.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn take(&mut self, count: usize) -> Result<Vec<u32>> {
        let short = || Error::corrupt("the content is shorter than its header says");
        let (taken, rest) =
            count.checked_mul(4).and_then(|n| self.0.split_at_checked(n)).ok_or_else(short)?;
        self.0 = rest;
        Ok(taken.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    fn numbers<const N: usize>(&mut self) -> Result<[usize; N]> {
        let words = self.take(N)?;
        Ok(std::array::from_fn(|index| words[index] as usize))
    }
}

fn read_header(version: u32, words: &mut Words<'_>) -> Result<(Staircase, Shape, StoredKeys)> {
    let [kv_heads, head_dim, value_dim, keys] = words.numbers()?;
    let [segment, group, sinks, residual] = words.numbers()?;
    let summaries = match version {
        WITH_SUMMARIES | ROTATED_WITH_SUMMARIES => words.numbers::<1>()?.first().copied(),
        _ => None,
    };
    let codec = match version {
        ROTATED | ROTATED_WITH_SUMMARIES => match words.numbers()? {
            [ROTATED_CODEC, fine_tokens] => Codec::Rotated { fine_tokens },
            _ => return Err(Error::corrupt("unknown codec")),
        },
        _ => Codec::MinMax,
    };
    let rungs = words.numbers::<2>()?;
    let mut ladders = Vec::new();
    for count in rungs {
        let numbers = words.take(count.saturating_mul(2))?;
        ladders.push(numbers.chunks_exact(2).map(|rung| (rung[0], rung[1] as usize)).collect::<Vec<_>>());
    }
    let ladder = |rungs: &[(u32, usize)]| match rungs.split_last() {
        Some((&(bits, 0), steps)) => Ladder::new(steps, bits),
        _ => Err(Error::corrupt("a ladder without a last rung")),
    };
    let keys = match keys {
        0 => Ok(StoredKeys::BeforeRotation),
        1 => Ok(StoredKeys::AfterRotation),
        _ => Err(Error::corrupt("unknown rotation")),
    };
    let parse = || -> Result<_> {
        let staircase = Staircase::new(ladder(&ladders[0])?, ladder(&ladders[1])?)?.with_sinks(sinks);
        let staircase = staircase.with_segment_and_group(segment, group)?;
        let staircase = if residual == 0 { staircase } else { staircase.with_residual(residual)? };
        let staircase = match summaries {
            Some(tokens) => staircase.with_summaries(tokens)?,
            None => staircase,
        };
        let staircase = staircase.with_codec(codec)?;
        let shape = Shape::new(kv_heads, kv_heads, 0, head_dim)?.with_value_dim(value_dim)?;
        Ok((staircase, shape, keys?))
    };
    parse().map_err(|error| Error::corrupt(format!("impossible header: {error}")))
}

fn read_sequence(words: &mut Words<'_>, form: &CacheForm) -> Result<Sequence> {
    let (CacheForm { staircase, shape, .. }, layouts) = (form, form.layouts()?);
    let [len, segments] = words.numbers()?;
    let possible = segments >= staircase.segments_after(len)
        && segments.checked_mul(staircase.segment()).is_some_and(|left| left <= len)
        && shape.with_kv_len(len).is_ok();
    if !possible {
        return Err(Error::corrupt(format!("impossible content: {len} tokens, {segments} segments")));
    }
    let standing = staircase.standing_at(len, segments);
    let mut stores = Vec::new();
    for index in 0..2 * shape.kv_heads() {
        let (side, layout) = (Side::ALL[index % 2], layouts[index % 2]);
        let row = padded(form.dim(side)) / 2;
        let sinks = words.take(standing.sinks().len().saturating_mul(row))?;
        let mut packs = std::collections::VecDeque::new();
        for segment in standing.dropped_segments()..segments {
            let rung = standing.segment_rung(side, segment).unwrap_or(0);
            let bits = staircase.ladder(side).rungs()[rung].bits;
            if bits > 0 {
                packs.push_back(words.take(layout.with_bits(bits).words())?);
            }
        }
        let residual = words.take(standing.residual().len().saturating_mul(row))?;
        stores.push(Store { sinks, packs, residual });
    }
    if !words.0.is_empty() {
        return Err(Error::corrupt("the content is longer than its header says"));
    }
    Ok(Sequence { len, segments, stores })
}
