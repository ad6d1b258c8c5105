//! Staircases as data: what a file of theirs says.

use super::codec::Codec;
use super::ladder::{Ladder, Rung, Side};
use super::staircase::Staircase;
use crate::error::{Error, Result, ensure};

/// `{"keys": [[8, 4], [4]], "values": …, "segment": 64, …}`: rungs of bits and segments, the last
/// of bits alone.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stored {
    keys: Vec<Step>,
    values: Vec<Step>,
    segment: usize,
    group: usize,
    sinks: usize,
    /// As long as a segment, if it isn't said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    residual: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    summaries: Option<usize>,
    /// Of rotated codes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fine_tokens: Option<usize>,
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
enum Step {
    Dwell(u32, usize),
    Last([u32; 1]),
}

fn steps(ladder: &Ladder) -> Vec<Step> {
    let of = |&Rung { bits, segments }: &Rung| {
        segments.map_or(Step::Last([bits]), |segments| Step::Dwell(bits, segments))
    };
    ladder.rungs().iter().map(of).collect()
}

fn ladder(steps: &[Step]) -> Result<Ladder> {
    let mut dwells = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        match step {
            Step::Dwell(bits, segments) => dwells.push((*bits, *segments)),
            Step::Last([bits]) => {
                ensure!(index + 1 == steps.len(), "rungs", "expected a number of segments on rung {index}");
                return Ladder::new(&dwells, *bits);
            }
        }
    }
    Err(Error::argument_error("rungs", "expected a last one without a number of segments"))
}

impl From<Staircase> for Stored {
    fn from(staircase: Staircase) -> Self {
        Self {
            keys: steps(staircase.ladder(Side::Keys)),
            values: steps(staircase.ladder(Side::Values)),
            segment: staircase.segment(),
            group: staircase.group(),
            sinks: staircase.sinks(),
            residual: Some(staircase.residual()).filter(|&tokens| tokens != staircase.segment()),
            summaries: staircase.summaries(),
            fine_tokens: match staircase.codec() {
                Codec::MinMax => None,
                Codec::Rotated { fine_tokens } => Some(fine_tokens),
            },
        }
    }
}

impl TryFrom<Stored> for Staircase {
    type Error = Error;

    fn try_from(stored: Stored) -> Result<Self> {
        let Stored { keys, values, segment, group, sinks, residual, summaries, fine_tokens } = stored;
        let staircase = Self::new(ladder(&keys)?, ladder(&values)?)?
            .with_segment_and_group(segment, group)?
            .with_sinks(sinks);
        let staircase = match residual {
            Some(tokens) => staircase.with_residual(tokens)?,
            None => staircase,
        };
        let staircase = match summaries {
            Some(tokens) => staircase.with_summaries(tokens)?,
            None => staircase,
        };
        match fine_tokens {
            Some(fine_tokens) => staircase.with_codec(Codec::Rotated { fine_tokens }),
            None => Ok(staircase),
        }
    }
}
