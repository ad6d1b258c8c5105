//! A staircase cache as it is written on the command line.

use std::fmt::Display;

use anyhow::{Result, anyhow, bail};
use prflash::cache::{Codec, Ladder, Side, Staircase};

/// A part of the text, and where it starts: characters, from 1.
#[derive(Clone, Copy)]
struct Part<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Part<'a> {
    fn split(self, separator: char) -> impl Iterator<Item = Part<'a>> {
        let mut at = self.at;
        self.text.split(separator).map(move |text| {
            let part = Part { text, at };
            at += text.chars().count() + 1;
            part
        })
    }

    /// What follows a prefix.
    fn after(self, prefix: &str) -> Option<Self> {
        let text = self.text.strip_prefix(prefix)?;
        Some(Part { text, at: self.at + prefix.chars().count() })
    }

    fn error(self, expected: impl Display) -> anyhow::Error {
        anyhow!("character {}: expected {expected}, got {:?}", self.at, self.text)
    }

    fn number<T: std::str::FromStr>(self, what: &str) -> Result<T> {
        self.text.parse().map_err(|_| self.error(what))
    }

    /// What the library says of this part.
    fn checked<T>(self, result: prflash::Result<T>) -> Result<T> {
        result.map_err(|error| anyhow!("character {}: {:?}: {error}", self.at, self.text))
    }
}

/// Reads `recommended`, `rotated`, `paper`, `plain`, `kivi8`, `kivi4`, `kivi3`, `kivi2`,
/// `streaming:WINDOW` or
/// two ladders as in `K:8x2,4;V:8x2,4x16,2` (bits × segments, the last one without an end); any of
/// them followed by `;residual=TOKENS`, `;sinks=TOKENS`, `;segment=TOKENS`, `;group=TOKENS` or, for
/// rotated codes, `;rotated=FINE-TOKENS`.
///
/// # Errors
/// Says at which character, and what was expected there.
pub fn parse(text: &str) -> Result<Staircase> {
    let whole = Part { text, at: 1 };
    let mut parts = whole.split(';');
    let head = parts.next().unwrap_or(whole);
    let mut staircase = match head.text {
        "recommended" => Staircase::recommended(),
        "rotated" => Staircase::recommended_rotated(),
        "paper" => Staircase::paper(),
        "plain" => Staircase::plain(),
        _ => {
            if let Some(bits) = head.after("kivi") {
                bits.checked(Staircase::kivi(bits.number("8, 4, 3 or 2 bits behind kivi")?))?
            } else if let Some(window) = head.after("streaming:") {
                window.checked(Staircase::streaming(window.number("a number of tokens")?))?
            } else if let Some(keys) = head.after("K:") {
                let end = Part { text: "", at: text.chars().count() + 1 };
                let next = parts.next().unwrap_or(end);
                let values = next.after("V:").ok_or_else(|| next.error("V: and a ladder"))?;
                next.checked(Staircase::new(ladder(keys)?, ladder(values)?))?
            } else {
                bail!(
                    head.error(
                        "recommended, rotated, paper, plain, kivi8, kivi4, kivi3, kivi2, streaming:WINDOW or K:LADDER;V:LADDER"
                    )
                )
            }
        }
    };
    let mut lengths = None;
    for part in parts {
        let (name, value) = part.text.split_once('=').unwrap_or((part.text, ""));
        let value = Part { text: value, at: part.at + name.chars().count() + 1 };
        let known = ["residual", "sinks", "segment", "group", "rotated"].contains(&name);
        if !known {
            bail!(part.error("residual=, sinks=, segment=, group= or rotated="));
        }
        let tokens: usize = value.number("a number of tokens")?;
        // A segment and a group that only fit each other may come in either order, so they are
        // checked together.
        let (segment, group, _) = lengths.unwrap_or((staircase.segment(), staircase.group(), part));
        match name {
            "residual" => staircase = part.checked(staircase.with_residual(tokens))?,
            "sinks" => staircase = staircase.with_sinks(tokens),
            "rotated" => {
                staircase = part.checked(staircase.with_codec(Codec::Rotated { fine_tokens: tokens }))?;
            }
            "segment" => lengths = Some((tokens, group, part)),
            _ => lengths = Some((segment, tokens, part)),
        }
    }
    match lengths {
        Some((segment, group, part)) => part.checked(staircase.with_segment_and_group(segment, group)),
        None => Ok(staircase),
    }
}

fn ladder(part: Part<'_>) -> Result<Ladder> {
    let rungs: Vec<Part<'_>> = part.split(',').collect();
    let (mut steps, mut last) = (Vec::new(), 0);
    for (index, rung) in rungs.iter().enumerate() {
        let (bits, segments) = rung.text.split_once('x').unwrap_or((rung.text, ""));
        let bits = Part { text: bits, at: rung.at }.number("bits, as in 8x2 or 4")?;
        if index + 1 == rungs.len() {
            if rung.text.contains('x') {
                bail!(rung.error("a last rung without an end, as in 4"));
            }
            last = bits;
        } else {
            steps.push((bits, rung.number_behind_x(segments)?));
        }
    }
    part.checked(Ladder::new(&steps, last))
}

impl Part<'_> {
    fn number_behind_x(self, segments: &str) -> Result<usize> {
        segments.parse().map_err(|_| self.error("bits and segments, as in 8x2"))
    }
}

/// A staircase with everything in effect, as [`parse`] reads it.
pub fn canonical(staircase: &Staircase) -> String {
    let ladder = |side| {
        let rungs = staircase.ladder(side).rungs().iter();
        let written = rungs.map(|rung| match rung.segments {
            Some(segments) => format!("{}x{segments}", rung.bits),
            None => rung.bits.to_string(),
        });
        written.collect::<Vec<_>>().join(",")
    };
    let last = match staircase.codec() {
        Codec::Rotated { fine_tokens } => format!("rotated={fine_tokens}"),
        _ => format!("group={}", staircase.group()),
    };
    format!(
        "K:{};V:{};residual={};sinks={};segment={};{last}",
        ladder(Side::Keys),
        ladder(Side::Values),
        staircase.residual(),
        staircase.sinks(),
        staircase.segment()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() -> Result<()> {
        for text in
            ["recommended", "rotated", "paper", "plain", "kivi8", "kivi4", "kivi3", "kivi2", "streaming:500"]
        {
            let staircase = parse(text)?;
            assert_eq!(canonical(&parse(&canonical(&staircase))?), canonical(&staircase), "{text}");
        }
        assert_eq!(parse("kivi4")?, Staircase::kivi(4)?);
        assert_eq!(parse("streaming:500")?, Staircase::streaming(500)?);
        let wide = parse("K:8x2,4;V:8x2,4x16,2;segment=64;group=64;residual=200;sinks=9")?;
        let ladders = (Ladder::new(&[(8, 2)], 4)?, Ladder::new(&[(8, 2), (4, 16)], 2)?);
        let same = Staircase::new(ladders.0, ladders.1)?.with_segment_and_group(64, 64)?;
        assert_eq!(wide, same.with_residual(200)?.with_sinks(9));
        assert_eq!(parse("plain;group=64;segment=64")?.group(), 64);
        assert_eq!(canonical(&wide), "K:8x2,4;V:8x2,4x16,2;residual=200;sinks=9;segment=64;group=64");
        Ok(())
    }

    #[test]
    fn refusals_say_where() {
        let refused = |text: &str| parse(text).unwrap_err().to_string();
        for (text, at, what) in [
            ("stairs", 1, "recommended"),
            ("", 1, "recommended"),
            ("kivi5", 5, "8, 4, 3 or 2"),
            ("kivi", 5, "bits behind kivi"),
            ("streaming:", 11, "a number of tokens"),
            ("streaming:0", 11, "residual"),
            ("K:8x2,4", 8, "V: and a ladder"),
            ("K:8x2,4;8", 9, "V: and a ladder"),
            ("K:8x2,5;V:4", 3, "16, 8, 4, 3 or 2"),
            ("K:8x2,4;V:8,4", 11, "bits and segments"),
            ("K:8x2,4;V:8x1,4x2", 15, "a last rung without an end"),
            ("K:8x2,4;V:8x2,fourx16,2", 15, "bits, as in 8x2"),
            ("K:8x1,0;V:4", 9, "dropped"),
            ("plain;sink=4", 7, "residual=, sinks="),
            ("kivi4;rotated=33", 7, "fine tokens"),
            ("plain;sinks=four", 13, "a number of tokens"),
            ("plain;segment=48", 7, "multiple of the group"),
        ] {
            let message = refused(text);
            assert!(message.starts_with(&format!("character {at}:")), "{text}: {message}");
            assert!(message.contains(what), "{text}: {message}");
        }
    }
}
