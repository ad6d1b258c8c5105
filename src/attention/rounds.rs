//! Attention in rounds: each visits some of the blocks, and their merge is there after every one of
//! them.

use std::sync::{Mutex, MutexGuard};

use super::bound::{Bound, Operands};
use super::call::Call;
use super::check::CheckedCall;
use super::choosing;
use super::inputs::attention::Attention;
use super::inputs::content::Missing;
use super::inputs::tables::Tables;
use super::merge::{Merger, MergerBound, PreparedStep, Step};
use super::plan::{Output, Plan, check_whole};
use super::record::Target;
use super::table_buffer::TableBuffer;
use crate::attention::kernels::merge::Merge;
use crate::error::{Error, Result, ensure};
use crate::layout::{DType, Layout};
use crate::runtime::binding::{check_rows, check_tensor, check_written};
use crate::runtime::prepare::Compiling;
use crate::runtime::sync::lock;
use crate::runtime::tensor::{Tensor, TensorView};
use crate::sampling::Schedule;
use crate::sampling::content::KeySummaries;

/// What the rounds of a [`RoundsPlan`] are to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Combine {
    /// Independent draws of a schedule ([`Seed::round`](crate::Seed::round)): the running estimate
    /// is their mean by log-sum-exp, and its standard error is known from their spread.
    Independent,
    /// Rounds without a common block, as [`partition_rounds`](crate::sampling::partition_rounds)
    /// draws them: their sum, exact once all are in.
    Partition,
}

/// An [`Attention`] made ready for rounds, from [`Plan::rounds`].
///
/// ```no_run
/// # fn main() -> Result<(), prflash::Error> {
/// # use prflash::rounds::Combine;
/// # use prflash::{
/// #     Attention, BlockGrid, Context, DType, Layout, Profile, Schedule, Seed, Shape,
/// #     Systematic, Tables, Tensor,
/// # };
/// # let context = Context::new_blocking()?;
/// # let shape = Shape::new(9, 3, 1024, 64)?;
/// # let upload = |heads| Tensor::zeros(&context, DType::F32, Layout::heads_first(1, heads, 1024, 64)?);
/// # let (q, k, v) = (upload(9)?, upload(3)?, upload(3)?);
/// let plan = Attention::causal().with_correction(1.0)?.plan(&context, &shape)?.rounds(Combine::Independent)?;
/// let mut rounds = plan.start(q.view(), k.view(), v.view())?;
/// for round in 0..16 {
///     let seed = Seed::new(42).round(round);
///     let schedule = Schedule::sample(&BlockGrid::causal(&shape), &Profile::harmonic(), &Systematic, seed)?;
///     let estimate = rounds.step(&Tables::from(&schedule))?;
///     // Of each row, the Euclidean norm over its channels; infinite after one round.
///     let errors = estimate.standard_error.as_ref().map(|tensor| tensor.read_blocking(&context)).transpose()?;
///     # let _ = errors;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct RoundsPlan {
    attention: Attention,
    plan: Plan,
    merger: Merger,
    combine: Combine,
}

/// Tensors that a [`RoundsPlan`] has checked and bound, with the running state of their rounds.
///
/// The state takes `2·value_dim + 4` f32 values per row of the output (`value_dim + 4` for
/// partitions) beside one more output in f32, however many rounds there are.
#[derive(Debug)]
pub struct RoundsBound {
    bound: Bound,
    merger: MergerBound,
    /// Rounds recorded so far.
    recorded: Mutex<usize>,
}

impl Plan {
    /// Makes the attention of this plan ready for rounds: anytime attention, whose estimate is
    /// complete after every round and better after the next.
    ///
    /// # Errors
    /// Unsupported for a plan whose keys are in a cache; those of
    /// [`Attention::plan_with`](crate::Attention::plan_with).
    pub fn rounds(&self, combine: Combine) -> Result<RoundsPlan> {
        RoundsPlan::new(self, combine)
    }
}

impl RoundsPlan {
    fn new(whole: &Plan, combine: Combine) -> Result<Self> {
        let attention = whole.attention();
        // The merge adds sinks, once.
        let of_round = attention.clone().with_lse(true).with_output(DType::F32).without_sinks();
        // A plan that writes states is that of a round.
        let plan = match &of_round == attention {
            true => whole.clone(),
            false => choosing::plan(&whole.wanted(&of_round)?)?,
        };
        let merge = Merge { output: attention.output(), spread: combine == Combine::Independent };
        let (value_dim, sequences) = (plan.maxima().value_dim(), plan.prepared.sequences);
        let merger = Merger::new(plan.context(), merge, value_dim, sequences, attention.sinks())?;
        Ok(Self { attention: attention.clone(), plan, merger, combine })
    }

    /// The plan of one round.
    pub fn round_plan(&self) -> &Plan {
        &self.plan
    }

    /// Bytes of GPU memory that the plan holds, beside those of what it bound.
    pub fn device_bytes(&self) -> u64 {
        self.plan.device_bytes() + self.merger.device_bytes()
    }

    /// Ready once the kernels of a round and of the merge are compiled, as
    /// [`Plan::prepare`](crate::Plan::prepare) is.
    ///
    /// # Errors
    /// Those of [`Plan::prepare`](crate::Plan::prepare).
    pub async fn prepare(&self, progress: impl FnMut(Compiling<'_>)) -> Result<()> {
        self.plan
            .context()
            .prepare(self.plan.prepared.pipelines().chain([self.merger.pipeline()]), progress)
            .await
    }

    /// Checks tensors against the plan and binds them; `standard_error` is `[batch, heads, q
    /// capacity]`, f32 ([`Layout::rows`](crate::Layout::rows)).
    ///
    /// # Errors
    /// Those of [`Plan::bind`]; invalid argument (`standard_error`) for partitions, which have
    /// none; too large where the running state doesn't fit the device's binding size; out of
    /// memory.
    pub fn bind(&self, operands: &Operands<'_>, standard_error: Option<&TensorView>) -> Result<RoundsBound> {
        let (context, maxima) = (self.plan.context(), self.plan.maxima());
        let Operands { q, k, v, output, lse } = *operands;
        check_tensor(context, "output", output, self.attention.output(), maxima.heads(), maxima.value_dim())?;
        let read = [("q", q), ("k", k), ("v", v)];
        check_written("output", output, &read)?;
        ensure!(
            lse.is_some() == self.attention.lse(),
            "lse",
            "expected one if and only if the attention writes it (Attention::with_lse)"
        );
        ensure!(
            standard_error.is_none() || self.combine == Combine::Independent,
            "standard_error",
            "partition rounds are no sample: they have no standard error"
        );
        let mut written = vec![("output", output)];
        for (argument, rows) in [("lse", lse), ("standard_error", standard_error)] {
            let Some(rows) = rows else { continue };
            check_rows(context, argument, rows, maxima.heads(), &[&read[..], &written[..]].concat())?;
            let (want, got) = (output.layout().dims(), rows.layout().dims());
            ensure!(want[..3] == got[..3], argument, "expected {:?} rows, got {:?}", &want[..3], &got[..3]);
            written.push((argument, rows));
        }
        let merger = self.merger.bind(output, lse, standard_error)?;
        let (output, lse) = (merger.state_output.view(), Some(merger.state_lse.view()));
        let bound = self.plan.bind(&Operands { q, k, v, output, lse })?;
        Ok(RoundsBound { bound, merger, recorded: Mutex::new(0) })
    }

    /// Records round number `round`, counted from 0, and the estimate from all rounds up to it.
    /// Round 0 starts afresh.
    ///
    /// As [`Plan::encode`], it doesn't submit or wait, and after warm-up creates no GPU object. The
    /// result is written into the bound output after every round, for the rows of this call alone:
    /// give every round of an estimate the same lengths.
    ///
    /// # Errors
    /// Those of [`Plan::encode`]; invalid argument (`round`) if an earlier one wasn't recorded.
    /// Then nothing was recorded.
    pub fn encode_round(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        bound: &RoundsBound,
        call: &Call<'_>,
        round: usize,
    ) -> Result<()> {
        let mut recorded = bound.check_round(round)?;
        let (checked, merge) = self.prepare_round(bound, call, round)?;
        self.plan.record(Target::Encoder(encoder), checked)?;
        if let Some(merge) = merge {
            merge.record(encoder);
        }
        *recorded = round + 1;
        Ok(())
    }

    /// Records and submits one round, without waiting: [`encode_round`](RoundsPlan::encode_round)
    /// for programs whose encoder needn't hold anything else. Long work is submitted in pieces, as
    /// by [`Plan::submit`].
    ///
    /// # Errors
    /// As [`encode_round`](RoundsPlan::encode_round); device lost.
    pub fn submit_round(&self, bound: &RoundsBound, call: &Call<'_>, round: usize) -> Result<()> {
        let context = self.plan.context();
        let mut recorded = bound.check_round(round)?;
        let (checked, merge) = self.prepare_round(bound, call, round)?;
        self.plan.record(Target::Queue, checked)?;
        if let Some(merge) = merge {
            let mut encoder = context.device().create_command_encoder(&Default::default());
            merge.record(&mut encoder);
            context.submit([encoder.finish()])?;
        }
        *recorded = round + 1;
        Ok(())
    }

    /// The call, checked, and the merge of what it computes, if that is anything.
    fn prepare_round<'a>(
        &'a self,
        bound: &'a RoundsBound,
        call: &Call<'a>,
        round: usize,
    ) -> Result<(CheckedCall<'a>, Option<PreparedStep<'a>>)> {
        let checked = self.plan.check(&bound.bound, call)?;
        let rows = checked.sequences.iter().map(|sequence| sequence.rows);
        let step = Step { earlier: round, mean: self.combine == Combine::Independent };
        let merge = self.merger.prepare(&bound.merger, rows, step)?;
        Ok((checked, merge))
    }

    /// Allocates the results of whole tensors, of any length up to the plan's maxima, for rounds
    /// that are then computed one by one.
    ///
    /// # Errors
    /// Those of [`bind`](RoundsPlan::bind); invalid argument (`k`, `v`) as in [`Plan::run`].
    pub fn start(&self, q: &TensorView, k: &TensorView, v: &TensorView) -> Result<Rounds<'_>> {
        let (context, maxima) = (self.plan.context(), self.plan.maxima());
        let ([batch, heads, q_len, _], kv_len) = (q.layout().dims(), k.layout().dims()[2]);
        check_whole(q, k, v)?;
        let Output { output, lse } =
            Output::zeros(context, &self.attention, [batch, heads, q_len, maxima.value_dim()])?;
        let rows = || Tensor::zeros(context, DType::F32, Layout::rows(batch, heads, q_len)?);
        let standard_error = (self.combine == Combine::Independent).then(rows).transpose()?;
        let operands = Operands { q, k, v, output: output.view(), lse: lse.as_ref().map(Tensor::view) };
        let bound = self.bind(&operands, standard_error.as_ref().map(Tensor::view))?;
        let estimate = Estimate { rounds: 0, output, lse, standard_error };
        Ok(Rounds { plan: self, bound, tables: None, lengths: (q_len, kv_len), estimate })
    }
}

impl RoundsBound {
    /// Refuses a round before which others are missing. Whoever holds the result says which round
    /// is the next.
    fn check_round(&self, round: usize) -> Result<MutexGuard<'_, usize>> {
        let recorded = lock(&self.recorded);
        ensure!(
            round <= *recorded,
            "round",
            "expected at most {recorded}, the rounds before it, got {round}"
        );
        Ok(recorded)
    }
}

/// Rounds under way, from [`RoundsPlan::start`].
#[derive(Debug)]
pub struct Rounds<'a> {
    plan: &'a RoundsPlan,
    bound: RoundsBound,
    tables: Option<TableBuffer>,
    lengths: (usize, usize),
    estimate: Estimate,
}

/// Where [rounds end](Rounds::step_until) before all of them are in.
#[derive(Clone, Copy, Debug)]
pub struct Stop<'a> {
    /// The queries `[heads, q_len, head_dim]` on the host, before rotation.
    pub q: &'a [f32],
    /// Summaries of the keys ([`Attention::summarize`]).
    pub keys: &'a KeySummaries,
    /// The share of its attention that every row may leave out, from 0 (never stop early) to 1.
    pub share: f64,
}

/// What the rounds so far say.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Estimate {
    /// Rounds so far.
    pub rounds: usize,
    /// `[batch, heads, q_len, value_dim]`, contiguous.
    pub output: Tensor,
    /// `[batch, heads, q_len]`, f32, natural logarithm; if the attention asks for it.
    pub lse: Option<Tensor>,
    /// `[batch, heads, q_len]`, f32: the standard error of each output row, as the Euclidean norm
    /// over its channels; infinite after one round. Independent rounds only.
    ///
    /// It is a first-order (delta method) estimate of sampling error. It can't see what no round
    /// visited.
    pub standard_error: Option<Tensor>,
}

impl Rounds<'_> {
    /// Submits one more round with these tables, and returns the estimate that it leads to. It
    /// doesn't wait; [`Tensor::read`] does.
    ///
    /// # Errors
    /// Those of [`TableBuffer::new`] and [`RoundsPlan::encode_round`]; device lost.
    pub fn step(&mut self, tables: &Tables<'_>) -> Result<&Estimate> {
        match &mut self.tables {
            Some(buffer) => buffer.write(tables)?,
            None => self.tables = Some(TableBuffer::new(self.plan.plan.context(), tables)?),
        }
        let (q_len, kv_len) = self.lengths;
        let mut call = Call::lengths(q_len, kv_len);
        if let Some(tables) = &self.tables {
            call = call.with_tables(tables);
        }
        self.plan.submit_round(&self.bound, &call, self.estimate.rounds)?;
        self.estimate.rounds += 1;
        Ok(&self.estimate)
    }

    /// What the rounds so far say.
    pub fn estimate(&self) -> &Estimate {
        &self.estimate
    }

    /// Takes rounds of [`Schedule::select_rounds`], from the first that isn't taken yet, until
    /// every row is known to leave out no more than the share of its attention at which to stop.
    /// Says what is left out after the last round taken: nothing, where all of them were needed.
    ///
    /// Each round's log-sum-exp is read back to tell; native backends wait inside.
    ///
    /// # Errors
    /// Invalid argument: (`combine`) for independent rounds, of which several may visit a block;
    /// (`lse`) for an attention that doesn't write it; (`share`) unless from 0 to 1; (`rounds`)
    /// with none that isn't taken yet. Those of [`Attention::missing`] and [`step`](Rounds::step).
    pub async fn step_until(&mut self, rounds: &[Schedule], stop: &Stop<'_>) -> Result<Missing> {
        let partition = self.plan.combine == Combine::Partition;
        ensure!(partition, "combine", "expected a partition, got independent rounds");
        let share = stop.share;
        ensure!((0.0..=1.0).contains(&share), "share", "expected a number from 0 to 1, got {share}");
        let Some(lse) = self.estimate.lse.clone() else {
            return Err(Error::argument_error("lse", "expected an attention that writes it: with_lse"));
        };
        let (taken, all) = (self.estimate.rounds, rounds.len());
        ensure!(taken < all, "rounds", "expected more than the {taken} that are taken, got {all}");
        loop {
            let next = self.estimate.rounds;
            self.step(&Tables::from(&rounds[next]))?;
            let visited: Vec<&Schedule> = rounds[..=next].iter().collect();
            let lse = lse.read(self.plan.plan.context()).await?;
            let (grid, tables) = (visited[0].grid(), Tables::new());
            let missing = self.plan.attention.missing(grid, stop.q, stop.keys, &visited, &lse, &tables)?;
            if next + 1 == all || missing.is_within(share) {
                return Ok(missing);
            }
        }
    }

    /// [`step_until`](Rounds::step_until), blocking.
    ///
    /// # Errors
    /// As [`step_until`](Rounds::step_until).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn step_until_blocking(&mut self, rounds: &[Schedule], stop: &Stop<'_>) -> Result<Missing> {
        pollster::block_on(self.step_until(rounds, stop))
    }
}
