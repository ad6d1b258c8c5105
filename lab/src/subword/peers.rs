//! What other programs encoded, as `scripts/subword-peers` leaves it.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::stream::Streams;

/// What is known of a program and its vocabulary.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Peer {
    /// The program's name.
    pub peer: String,
    /// The package with its version.
    pub version: String,
    /// Ids that there are.
    pub size: usize,
    /// Whether texts come back as they were.
    pub lossless: bool,
    /// Bytes of the text that was trained on.
    pub train_bytes: usize,
    /// Bytes of the other.
    pub held_out_bytes: usize,
    /// Seconds of the processor; none for a program that trains nothing.
    pub train_cpu_seconds: Option<f64>,
    /// 10⁶ bytes in a second.
    pub encode_mb_per_s: f64,
}

impl Peer {
    /// All of a folder of one size, by their names.
    ///
    /// # Errors
    /// Files that can't be read, or that are of other texts than these.
    pub fn all(folder: &Path, train_bytes: usize, held_out_bytes: usize) -> Result<Vec<(Self, Streams)>> {
        let context = || format!("reading {}", folder.display());
        let mut folders = Vec::new();
        for entry in std::fs::read_dir(folder).with_context(context)? {
            let path = entry.with_context(context)?.path();
            // Written last, when all else is there.
            if path.join("peer.json").exists() {
                folders.push(path);
            }
        }
        folders.sort();
        folders.iter().map(|folder| Self::read(folder, train_bytes, held_out_bytes)).collect()
    }

    fn read(folder: &Path, train_bytes: usize, held_out_bytes: usize) -> Result<(Self, Streams)> {
        let path = folder.join("peer.json");
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let peer: Self =
            serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
        let (want, got) = ((train_bytes, held_out_bytes), (peer.train_bytes, peer.held_out_bytes));
        ensure!(want == got, "{}: expected texts of {want:?} bytes, got {got:?}", path.display());
        let [train, held_out] = ["train.ids", "held-out.ids"].map(|name| ids(&folder.join(name)));
        let streams = Streams::new(peer.size, train?, held_out?, held_out_bytes);
        Ok((peer, streams.with_context(|| format!("reading {}", folder.display()))?))
    }
}

fn ids(path: &Path) -> Result<Vec<u32>> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let (ids, rest) = bytes.as_chunks::<4>();
    ensure!(rest.is_empty(), "{}: expected four bytes an id, got {} bytes", path.display(), bytes.len());
    Ok(ids.iter().map(|&id| u32::from_le_bytes(id)).collect())
}
