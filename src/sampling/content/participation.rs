//! By what key blocks take part: by their distance, by their content, or by both.

use std::fmt;

use super::scores::Pool;
use crate::error::{Result, ensure};

/// How many key blocks a query block visits, and by what they are chosen.
///
/// A block takes part with the probability
///
/// > `p = min(1, γ · (1 + d)^−α · share^τ)`
///
/// of its distance d, in blocks, and of the share of the attention mass that it is estimated to
/// have ([`BlockScores`](super::BlockScores)), with γ solved in each row so that Σp is the budget.
/// τ = 0 is a [`Profile`](crate::Profile)'s budget, by distance alone; the larger τ, the surer are
/// the blocks of the largest shares; at its end the budget is theirs, and nothing is drawn.
///
/// Weights are `ln p`, as in every schedule:
/// [`Attention::with_correction`](crate::Attention::with_correction) says how much of them counts.
/// They are 0 where nothing was drawn.
///
/// ```
/// use prflash::sampling::content::Participation;
/// let top = Participation::content(8)?;
/// assert_eq!(top.to_string(), "8 blocks by content");
/// let drawn = Participation::both(8, 0.5, 0.5)?.with_window_blocks(2)?;
/// assert_eq!((drawn.tau(), drawn.blocks()), (Some(0.5), 8));
/// # Ok::<(), prflash::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Participation {
    blocks: usize,
    /// None: the blocks of the highest scores.
    tau: Option<f64>,
    alpha: f64,
    pool: Pool,
    sink_blocks: usize,
    window_blocks: usize,
}

impl Participation {
    fn new(blocks: usize, tau: Option<f64>, alpha: f64) -> Result<Self> {
        ensure!(blocks >= 1, "blocks", "expected at least 1, got 0");
        if let Some(tau) = tau {
            check("tau", tau)?;
        }
        check("alpha", alpha)?;
        Ok(Self { blocks, tau, alpha, pool: Pool::default(), sink_blocks: 1, window_blocks: 1 })
    }

    /// Drawn by `1/(1 + d)`, without a look at the keys: as
    /// [`Profile::budget`](crate::Profile::budget).
    ///
    /// # Errors
    /// Invalid argument (`blocks`) for a budget of 0.
    pub fn distance(blocks: usize) -> Result<Self> {
        Self::new(blocks, Some(0.0), 1.0)
    }

    /// The blocks that are estimated to have most of the attention. A budget of `blocks` has the
    /// pinned blocks in it.
    ///
    /// # Errors
    /// Invalid argument (`blocks`) for a budget of 0.
    pub fn content(blocks: usize) -> Result<Self> {
        Self::new(blocks, None, 0.0)
    }

    /// Drawn by both: τ is the exponent of the share, α that of the distance.
    ///
    /// # Errors
    /// Invalid argument (`blocks`) for a budget of 0; (`tau`, `alpha`) unless from 0 to 64.
    pub fn both(blocks: usize, tau: f64, alpha: f64) -> Result<Self> {
        Self::new(blocks, Some(tau), alpha)
    }

    /// The same, where heads that share a list have their scores pooled otherwise.
    pub fn with_pool(self, pool: Pool) -> Self {
        Self { pool, ..self }
    }

    /// The same with the first `blocks` key blocks of the sequence always taking part (1 unless
    /// set).
    pub fn with_sink_blocks(self, blocks: usize) -> Self {
        Self { sink_blocks: blocks, ..self }
    }

    /// The same with every distance `d < blocks` always taking part (1 unless set: the diagonal).
    ///
    /// # Errors
    /// Invalid argument (`window_blocks`) if it is 0: the diagonal always takes part.
    pub fn with_window_blocks(self, blocks: usize) -> Result<Self> {
        ensure!(
            blocks >= 1,
            "window_blocks",
            "expected at least 1 (the diagonal always takes part), got {blocks}"
        );
        Ok(Self { window_blocks: blocks, ..self })
    }

    /// Blocks of a row, pinned ones included.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// The exponent τ of a block's share of the attention; none where the largest shares take part
    /// for certain.
    pub fn tau(&self) -> Option<f64> {
        self.tau
    }

    /// The exponent α of the distance.
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// How the scores of heads that share a list become one.
    pub fn pool(&self) -> Pool {
        self.pool
    }

    /// Key blocks at the start of the sequence that always take part.
    pub fn sink_blocks(&self) -> usize {
        self.sink_blocks
    }

    /// Distances below this always take part.
    pub fn window_blocks(&self) -> usize {
        self.window_blocks
    }

    /// Whether choices depend on the scores of blocks.
    pub fn looks_at_keys(&self) -> bool {
        self.tau != Some(0.0)
    }

    /// (τ, α) in 16.16 fixed point, with τ = 1 where the highest scores are taken.
    pub(crate) fn exponents(&self) -> (i64, i64) {
        let fixed = |x: f64| libm::round(x * 65536.0) as i64;
        (fixed(self.tau.unwrap_or(1.0)), fixed(self.alpha))
    }
}

fn check(argument: &'static str, exponent: f64) -> Result<()> {
    ensure!((0.0..=64.0).contains(&exponent), argument, "expected a number from 0 to 64, got {exponent}");
    Ok(())
}

impl fmt::Display for Participation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} blocks", self.blocks)?;
        match self.tau {
            None => f.write_str(" by content")?,
            Some(0.0) => write!(f, " drawn by 1/(1+d)^{}", self.alpha)?,
            Some(tau) => write!(f, " drawn by share^{tau}/(1+d)^{}", self.alpha)?,
        }
        if self.pool == Pool::Largest {
            f.write_str(", the largest share of heads")?;
        }
        if self.sink_blocks != 1 {
            write!(f, ", {} sink blocks", self.sink_blocks)?;
        }
        if self.window_blocks != 1 {
            write!(f, ", window {} blocks", self.window_blocks)?;
        }
        Ok(())
    }
}
