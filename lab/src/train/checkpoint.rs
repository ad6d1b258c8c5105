//! Where a training is left off: weights and the optimizer's state, in one file.
//!
//! A line of JSON says what it is of; behind it are the numbers, little-endian f32, of each weight
//! in turn: itself and, in a checkpoint, the means of its gradient and of the square.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::course::Course;
use super::settings::Settings;

/// What a file is of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// The settings of the training.
    pub settings: Settings,
    /// What tells its tokens from others.
    pub tokens: String,
    /// Who computed attention.
    pub backend: String,
    /// Steps that were taken.
    pub step: usize,
    /// Whether the optimizer's state is there, too.
    pub resumable: bool,
    /// The names and sizes of the weights.
    pub weights: Vec<(String, Vec<usize>)>,
    /// SHA-256 of the numbers.
    pub sha256: String,
}

/// Writes a course, whole or not at all.
///
/// # Errors
/// The file can't be written.
pub fn save(path: &Path, course: &Course<'_>, tokens: &str, backend: &str, resumable: bool) -> Result<()> {
    let mut numbers: Vec<u8> = Vec::new();
    let mut put = |values: &[f32]| values.iter().for_each(|x| numbers.extend_from_slice(&x.to_le_bytes()));
    let parameters = course.decoder.parameters();
    for (index, parameter) in parameters.iter().enumerate() {
        put(&parameter.value.flatten_all()?.to_vec1::<f32>()?);
        if resumable {
            put(&course.optimizer.means[index]);
            put(&course.optimizer.squares[index]);
        }
    }
    let head = Head {
        settings: course.settings.clone(),
        tokens: tokens.into(),
        backend: backend.into(),
        step: course.step,
        resumable,
        weights: parameters.iter().map(|p| (p.name.clone(), p.value.dims().to_vec())).collect(),
        sha256: format!("{:x}", Sha256::digest(&numbers)),
    };
    let line = serde_json::to_string(&head)?;
    testkit::files::write_with(path, |writer| {
        writeln!(writer, "{line}")?;
        Ok(writer.write_all(&numbers)?)
    })
}

/// Puts a course where a file left it off.
///
/// # Errors
/// A file that can't be read, is spoilt, or is of another training.
pub fn load(path: &Path, course: &mut Course<'_>, tokens: &str, backend: &str) -> Result<()> {
    let named = || path.display().to_string();
    let contents = std::fs::read(path).with_context(named)?;
    let end = contents.iter().position(|&byte| byte == b'\n').with_context(named)?;
    let head: Head = serde_json::from_slice(&contents[..end]).with_context(named)?;
    let numbers = &contents[end + 1..];
    ensure!(head.sha256 == format!("{:x}", Sha256::digest(numbers)), "{}: it is spoilt", path.display());
    ensure!(head.resumable, "{}: it is a model, from which nothing goes on", path.display());
    let own = (&course.settings, tokens, backend);
    ensure!(
        own == (&head.settings, &head.tokens[..], &head.backend[..]),
        "{}: it is of other texts, another --backend or other options; give another folder",
        path.display()
    );
    let (numbers, _) = numbers.as_chunks::<4>();
    let mut rest = numbers;
    let mut take = |count: usize| -> Result<Vec<f32>> {
        ensure!(rest.len() >= count, "{}: it is cut off", path.display());
        let (these, behind) = rest.split_at(count);
        rest = behind;
        Ok(these.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
    };
    for (index, parameter) in course.decoder.parameters().iter().enumerate() {
        let count = parameter.value.elem_count();
        parameter.value.set(&Tensor::from_vec(take(count)?, parameter.value.shape(), &Device::Cpu)?)?;
        course.optimizer.means[index] = take(count)?;
        course.optimizer.squares[index] = take(count)?;
    }
    course.step = head.step;
    Ok(())
}
