//! Blocks chosen by one of the rules, what attention over them deviates, and how long it takes.

use std::collections::HashMap;

use prflash::device::{Compiling, Timings};
use prflash::reference::{self, BlockMass, Exact};
use prflash::sampling::content::{BlockScores, DEFAULT_GROUP, Estimate, Participation, Probe};
use prflash::sampling::{Granularity, sink_window_like};
use prflash::{
    Attention, BlockGrid, Call, Context, DType, Layout, Operands, Profile, Result, Schedule, Seed, Shape,
    Systematic, TableBuffer, Tables, Tensor,
};

use crate::fixture::{DIM, HEADS, Layer};

/// By what blocks are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// All of them.
    Dense,
    /// The first and the nearest.
    Window,
    /// Drawn by `(1 + d)^−α`: the paper's PrFlashAttention.
    Distance,
    /// Those of the largest estimated shares of the attention.
    Content,
    /// Drawn by distance and by share.
    Both,
}

impl Rule {
    /// All, in the order in which the page numbers them.
    pub const ALL: [Rule; 5] = [Rule::Dense, Rule::Window, Rule::Distance, Rule::Content, Rule::Both];

    /// Whether the seed matters.
    pub fn is_drawn(self) -> bool {
        matches!(self, Rule::Distance | Rule::Both)
    }
}

/// What the reader has chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Which layer, counted from 0.
    pub layer: usize,
    /// Tokens of context.
    pub tokens: usize,
    /// Tokens of a block.
    pub block: usize,
    /// By what blocks are chosen.
    pub rule: Rule,
    /// Blocks that a row visits.
    pub budget: usize,
    /// How fast the probability falls with distance.
    pub alpha: f64,
    /// How much of `−ln p` is added to the scores of drawn blocks.
    pub beta: f64,
    /// How much a block's share counts where blocks are drawn by it.
    pub tau: f64,
    /// The seed of the draw.
    pub seed: u64,
}

/// The inputs, with what was found out about them. What takes settings takes those of a layer that
/// it [has](Explorer::has).
#[derive(Debug, Default)]
pub struct Explorer {
    /// By number, as the page counts them.
    layers: HashMap<usize, Layer>,
    /// Estimated shares by (layer, tokens, block).
    scores: HashMap<(usize, usize, usize), BlockScores>,
    /// Tensors on the device, of the last layer and length.
    uploaded: Option<Uploaded>,
}

#[derive(Clone, Debug)]
struct Uploaded {
    of: (usize, usize),
    q: Tensor,
    k: Tensor,
    v: Tensor,
    output: Tensor,
}

/// What a run on the device gave.
#[derive(Clone, Debug)]
pub struct Ran {
    /// `[3, tokens, 64]`.
    pub output: Vec<f32>,
    /// How long a call took.
    pub timings: Timings,
    /// The kernel that the plan chose.
    pub kernel: String,
}

impl Explorer {
    /// Takes the inputs of a layer.
    pub fn take(&mut self, number: usize, layer: Layer) {
        self.layers.insert(number, layer);
    }

    /// Whether it has the inputs of a layer.
    pub fn has(&self, number: usize) -> bool {
        self.layers.contains_key(&number)
    }

    /// Forgets what is on a device, which may be lost.
    pub fn forget_device(&mut self) {
        self.uploaded = None;
    }

    /// A layer that it has.
    pub fn layer(&self, number: usize) -> &Layer {
        &self.layers[&number]
    }

    /// One list per head.
    ///
    /// # Errors
    /// The block size isn't one.
    pub fn grid(settings: &Settings) -> Result<BlockGrid> {
        let grid = BlockGrid::causal(&Layer::shape(settings.tokens)?).with_block_size(settings.block)?;
        Ok(grid.with_granularity(Granularity::Head))
    }

    fn scores(&mut self, settings: &Settings) -> Result<&BlockScores> {
        let key = (settings.layer, settings.tokens, settings.block);
        if !self.scores.contains_key(&key) {
            let (shape, grid) = (Layer::shape(settings.tokens)?, Self::grid(settings)?);
            let [q, k, _] = self.layer(settings.layer).first(settings.tokens);
            let attention = Attention::causal();
            let keys = attention.summarize(&shape, &k, DEFAULT_GROUP.min(settings.block), None)?;
            let (keys, tables) = (keys.with_8_bits(), Tables::new());
            let scores =
                attention.block_scores(&grid, &q, &keys, Estimate::Saturated, Probe::default(), &tables)?;
            self.scores.insert(key, scores);
        }
        Ok(&self.scores[&key])
    }

    /// The lists of blocks that the settings choose.
    ///
    /// # Errors
    /// Numbers that the library refuses, by name.
    pub fn schedule(&mut self, settings: &Settings) -> Result<Schedule> {
        let (grid, seed) = (Self::grid(settings)?, Seed::new(settings.seed));
        let budget = settings.budget.min(grid.key_blocks()).max(2);
        let by_distance = || Profile::budget_with(budget as f64, settings.alpha);
        match settings.rule {
            Rule::Dense => Schedule::dense(&grid),
            Rule::Distance => Schedule::sample(&grid, &by_distance()?, &Systematic, seed),
            Rule::Window => {
                // As many as by content, which is the same in every row.
                let like =
                    Schedule::select(&grid, &Participation::content(budget)?, self.scores(settings)?, seed)?;
                sink_window_like(&like, &Profile::harmonic())
            }
            Rule::Content => {
                let participation = Participation::content(budget)?.with_window_blocks(1)?;
                Schedule::select(&grid, &participation, self.scores(settings)?, seed)
            }
            Rule::Both => {
                let participation = Participation::both(budget, settings.tau, settings.alpha)?;
                Schedule::select(&grid, &participation, self.scores(settings)?, seed)
            }
        }
    }

    /// For every (head, query block, key block): the probability with which a visited block was
    /// kept; of one that wasn't, minus the probability that it had, where that is known, else −0;
    /// NaN for what no query of the block sees.
    ///
    /// # Errors
    /// As [`schedule`](Explorer::schedule).
    pub fn picture(&mut self, settings: &Settings, schedule: &Schedule) -> Result<Vec<f32>> {
        let grid = *schedule.grid();
        let (rows, blocks) = (grid.query_blocks(), grid.key_blocks());
        let mut picture = vec![f32::NAN; HEADS * rows * blocks];
        let shares = match settings.rule {
            Rule::Both => Some(self.scores(settings)?.clone()),
            _ => None,
        };
        for head in 0..HEADS {
            for row in 0..rows {
                let cells = &mut picture[(head * rows + row) * blocks..][..blocks];
                // What p is proportional to, by block.
                let weight = |block: usize| -> f64 {
                    let distance = (row as f64 - block as f64).abs();
                    let share = shares.as_ref().and_then(|scores| scores.log2_share(head, row, block));
                    let share = share
                        .filter(|share| share.is_finite())
                        .map_or(1.0, |share| (settings.tau * share).exp2());
                    (1.0 + distance).powf(-settings.alpha) * share
                };
                let drawn = schedule.row(head, row).find(|entry| entry.ln_p < 0.0);
                let gamma = drawn.filter(|_| settings.rule.is_drawn());
                let gamma = gamma.map_or(0.0, |entry| f64::from(entry.ln_p).exp() / weight(entry.block));
                for (block, cell) in cells.iter_mut().enumerate().take(grid.dense_row(row as i64)) {
                    *cell = -((gamma * weight(block)).min(1.0) as f32);
                }
                for entry in schedule.row(head, row) {
                    cells[entry.block] = entry.ln_p.exp();
                }
            }
        }
        Ok(picture)
    }

    /// Dense attention in f64, and how much of it lies in each block: the page's oracle.
    ///
    /// # Errors
    /// None for inputs that are there.
    pub fn exact(&self, settings: &Settings) -> Result<(Exact, BlockMass)> {
        let shape = Layer::shape(settings.tokens)?;
        let [q, k, v] = self.layer(settings.layer).first(settings.tokens);
        let attention = Attention::causal();
        let exact = reference::attention(&attention, &shape, &q, &k, &v, &Tables::new())?;
        Ok((exact, reference::block_mass(&attention, &shape, &q, &k, &Self::grid(settings)?)?))
    }

    /// What a run on the device needs of the inputs; uploaded once.
    ///
    /// # Errors
    /// Out of memory; device lost.
    pub fn uploaded(&mut self, context: &Context, settings: &Settings) -> Result<Job> {
        let of = (settings.layer, settings.tokens);
        let known = self.uploaded.clone().filter(|uploaded| uploaded.of == of);
        let uploaded = if let Some(uploaded) = known {
            uploaded
        } else {
            let [q, k, v] = self.layer(settings.layer).first(settings.tokens);
            let layout = |heads| Layout::heads_first(1, heads, settings.tokens, DIM);
            let tensor = |heads, values: &[f32]| Tensor::upload(context, DType::F32, layout(heads)?, values);
            let uploaded = Uploaded {
                of,
                q: tensor(HEADS, &q)?,
                k: tensor(1, &k)?,
                v: tensor(1, &v)?,
                output: Tensor::zeros(context, DType::F32, layout(HEADS)?)?,
            };
            self.uploaded.insert(uploaded).clone()
        };
        let schedule = match settings.rule {
            Rule::Dense => None,
            _ => Some(self.schedule(settings)?),
        };
        Ok(Job { context: context.clone(), uploaded, schedule, settings: *settings })
    }
}

/// Attention over blocks, ready to run on a device.
#[derive(Debug)]
pub struct Job {
    context: Context,
    uploaded: Uploaded,
    schedule: Option<Schedule>,
    settings: Settings,
}

impl Job {
    /// Runs it `rounds` times, and once more to warm up.
    ///
    /// # Errors
    /// Out of memory; device lost.
    pub async fn run(self, rounds: usize, progress: impl FnMut(Compiling<'_>)) -> Result<Ran> {
        let Self { context, uploaded, schedule, settings } = self;
        let Uploaded { q, k, v, output, .. } = uploaded;
        let shape: Shape = Layer::shape(settings.tokens)?;
        let beta = if settings.rule.is_drawn() { settings.beta as f32 } else { 0.0 };
        let plan = Attention::causal().with_correction(beta)?.plan(&context, &shape)?;
        plan.prepare(progress).await?;
        let operands = Operands { q: q.view(), k: k.view(), v: v.view(), output: output.view(), lse: None };
        let bound = plan.bind(&operands)?;
        let tables = schedule.as_ref().map(|schedule| TableBuffer::new(&context, &Tables::from(schedule)));
        let tables = tables.transpose()?;
        let mut call = Call::lengths(settings.tokens, settings.tokens);
        if let Some(tables) = &tables {
            call = call.with_tables(tables);
        }
        let timings = plan.timings_async(&bound, &call, rounds).await?;
        let output = output.read(&context).await?;
        Ok(Ran { output, timings, kernel: plan.kernel().to_string() })
    }
}

/// `‖o − o*‖ / ‖o*‖` of every row `[3, tokens]`, and of every head.
pub fn errors(output: &[f32], exact: &[f64]) -> (Vec<f32>, Vec<f64>) {
    let square = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>();
    let mut rows = Vec::new();
    let mut heads = Vec::new();
    let each = (exact.len() / HEADS).max(1);
    for (output, exact) in output.chunks_exact(each).zip(exact.chunks_exact(each)) {
        let (mut off, mut norm) = (0.0, 0.0);
        for (got, want) in output.chunks_exact(DIM).zip(exact.chunks_exact(DIM)) {
            let difference: Vec<f64> =
                got.iter().zip(want).map(|(&got, want)| f64::from(got) - want).collect();
            let (of_row, of_norm) = (square(&difference), square(want));
            rows.push((of_row / of_norm).sqrt() as f32);
            off += of_row;
            norm += of_norm;
        }
        heads.push((off / norm).sqrt());
    }
    (rows, heads)
}

/// A checksum (FNV-1a, 64 bits) of every list: blocks, and the bits of their weights.
pub fn checksum(schedule: &Schedule) -> u64 {
    let mut sum: u64 = 0xcbf2_9ce4_8422_2325;
    let mut add = |word: u32| {
        for byte in word.to_le_bytes() {
            sum = (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    let grid = schedule.grid();
    for group in 0..grid.groups() {
        for row in 0..grid.query_blocks() {
            for entry in schedule.row(group, row) {
                add(entry.block as u32);
                add(entry.ln_p.to_bits());
            }
            add(u32::MAX);
        }
    }
    sum
}
