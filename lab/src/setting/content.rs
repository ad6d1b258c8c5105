//! Blocks chosen by content, as the command line has them.

use anyhow::{Context, Result, bail, ensure};
use prflash::sampling::content::{DEFAULT_GROUP, Estimate, Participation, Pool, Probe};

/// How blocks are chosen by what is known of keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Content {
    /// How many blocks, and by what.
    pub participation: Participation,
    /// What a group's mass is estimated by.
    pub estimate: Estimate,
    /// Tokens of a group.
    pub group: usize,
    /// The query rows that speak for a query block.
    pub probe: Probe,
}

impl Content {
    /// Reads `BLOCKS` and, each behind a semicolon, `estimate=saturated|bound|mean-key|exact`,
    /// `tau=X` and `alpha=X` (blocks are drawn then), `pool=mean|largest`, `group=TOKENS`,
    /// `probe=causal:ROWS|ahead:ROWS`.
    ///
    /// # Errors
    /// What can't be read, or what the library refuses.
    pub fn parse(text: &str) -> Result<Self> {
        let mut parts = text.split(';');
        let first = parts.next().unwrap_or_default();
        let number = |text: &str| text.parse::<usize>().with_context(|| format!("{text:?} is no number"));
        let blocks = number(first)?;
        let mut content = Self {
            participation: Participation::content(blocks)?,
            estimate: Estimate::Saturated,
            group: DEFAULT_GROUP,
            probe: Probe::default(),
        };
        let (mut tau, mut alpha, mut pool) = (None, None, Pool::Mean);
        for part in parts {
            let real = |text: &str| {
                text.parse::<f64>().with_context(|| format!("{text:?} in {part:?} is no number"))
            };
            match part.split_once('=') {
                Some(("estimate", "saturated")) => content.estimate = Estimate::Saturated,
                Some(("estimate", "bound")) => content.estimate = Estimate::Bound,
                Some(("estimate", "mean-key")) => content.estimate = Estimate::MeanKey,
                Some(("estimate", "exact")) => content.group = 1,
                Some(("tau", value)) => tau = Some(real(value)?),
                Some(("alpha", value)) => alpha = Some(real(value)?),
                Some(("pool", "mean")) => pool = Pool::Mean,
                Some(("pool", "largest")) => pool = Pool::Largest,
                Some(("group", value)) => content.group = number(value)?,
                Some(("probe", value)) => {
                    content.probe = match value.split_once(':') {
                        Some(("causal", rows)) => Probe::causal(number(rows)?)?,
                        Some(("ahead", rows)) => Probe::looking_ahead(number(rows)?)?,
                        _ => bail!("expected probe=causal:ROWS or probe=ahead:ROWS, got {part:?}"),
                    }
                }
                _ => bail!(
                    "expected BLOCKS and estimate=, tau=, alpha=, pool=, group= or probe=, got {part:?}"
                ),
            }
        }
        ensure!(content.group >= 1, "group: expected at least 1 token, got 0");
        content.participation = match (tau, alpha) {
            (None, None) => content.participation,
            (tau, alpha) => Participation::both(blocks, tau.unwrap_or(0.0), alpha.unwrap_or(0.0))?,
        }
        .with_pool(pool);
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read() {
        let content = |text| Content::parse(text).unwrap();
        assert_eq!(content("8").participation, Participation::content(8).unwrap());
        assert_eq!(
            (content("8;estimate=bound").estimate, content("8;estimate=exact").group),
            (Estimate::Bound, 1)
        );
        let drawn = content("4;tau=0.5;alpha=0.5;pool=largest;group=16;probe=ahead:8");
        let both = Participation::both(4, 0.5, 0.5).unwrap().with_pool(Pool::Largest);
        assert_eq!((drawn.participation, drawn.group), (both, 16));
        assert_eq!(drawn.probe, Probe::looking_ahead(8).unwrap());
        for bad in
            ["", "x", "0", "8;tau", "8;tau=x", "8;tau=-1", "8;group=0", "8;probe=4", "8;pool=all", "8;9"]
        {
            assert!(Content::parse(bad).is_err(), "{bad}");
        }
    }
}
