//! Numbers that are functions of a key and of what something reads.

use crate::random::hash_words;

/// A number between 0 and 1 of a key and of what it is for, neither of which it can be.
pub(super) fn uniform(seed: u64, key: [u32; 3], of: u32) -> f64 {
    let words = [seed as u32, (seed >> 32) as u32, key[0], key[1], key[2], of];
    (f64::from(hash_words(&words)) + 0.5) / (1u64 << 32) as f64
}

/// A number of what something reads.
pub(super) fn name(text: &str) -> u32 {
    let words: Vec<u32> = text.bytes().map(u32::from).chain([text.len() as u32]).collect();
    hash_words(&words)
}
