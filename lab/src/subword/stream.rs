//! Texts as ids.

use std::collections::HashSet;

use anyhow::{Result, ensure};

/// What one encoder makes of the text that it was trained on, and of one that it hasn't seen.
#[derive(Clone, Debug)]
pub struct Streams {
    /// Ids are below.
    pub pieces: usize,
    /// The ids of the text that was trained on.
    pub train: Vec<u32>,
    /// The ids of the other text.
    pub held_out: Vec<u32>,
    /// Bytes of the other.
    pub held_out_bytes: usize,
}

impl Streams {
    /// Two texts in ids that are below the number of pieces.
    ///
    /// # Errors
    /// A text without ids, or an id that no piece has.
    pub fn new(pieces: usize, train: Vec<u32>, held_out: Vec<u32>, held_out_bytes: usize) -> Result<Self> {
        ensure!(
            !train.is_empty() && !held_out.is_empty() && held_out_bytes > 0,
            "expected two texts that aren't empty"
        );
        for (name, ids) in [("train", &train), ("held-out", &held_out)] {
            let past = ids.iter().position(|&id| id as usize >= pieces);
            if let Some(at) = past {
                ensure!(false, "{name}: id {} at {at}, expected ids below {pieces}", ids[at]);
            }
        }
        Ok(Self { pieces, train, held_out, held_out_bytes })
    }

    /// How often each id occurs.
    pub fn counts(ids: &[u32], pieces: usize) -> Vec<u64> {
        let mut counts = vec![0; pieces];
        ids.iter().for_each(|&id| counts[id as usize] += 1);
        counts
    }

    /// Ids of the text that was trained on.
    pub fn used(&self) -> usize {
        self.train.iter().collect::<HashSet<_>>().len()
    }
}
