//! Tokenizers as files: prflash's own, and those of other programs.

mod byte_level;
mod hugging_face;
mod own;
mod ranks;

#[cfg(test)]
mod tests;
