//! What an attention is made ready for: [`Attention`]'s plans, all in one place.

use super::choosing;
use super::inputs::attention::Attention;
use super::plan::Plan;
use super::plan_options::PlanOptions;
use super::tuner;
use super::tuning::TuningProfile;
use super::tuning_options::TuningOptions;
use super::wanted::Wanted;
use crate::cache::KvCache;
use crate::error::Result;
use crate::error::ensure;
use crate::runtime::context::Context;
use crate::shape::Shape;

impl Attention {
    /// Makes this attention ready for a device: compiles its kernel and reserves what calls up to
    /// the sizes of `maxima` need. How it is computed is left to the plan.
    ///
    /// Heads and head dimensions of later calls are those of `maxima`; batch and lengths may be
    /// smaller.
    ///
    /// # Errors
    /// Invalid argument: positions for another head dimension (`positions`), or slopes for another
    /// number of heads (`slopes`). Too large (`shape`) if the device can't dispatch that much at
    /// once; unsupported, where the rotary dimension isn't
    /// [aligned](crate::Rope::is_quad_aligned); out of memory; device lost.
    pub fn plan(&self, context: &Context, maxima: &Shape) -> Result<Plan> {
        self.plan_with(context, maxima, &PlanOptions::new())
    }

    /// [`plan`](Attention::plan), computed as the options say.
    ///
    /// # Errors
    /// Those of [`plan`](Attention::plan); unsupported, where a kernel was asked for that the
    /// device can't run.
    pub fn plan_with(&self, context: &Context, maxima: &Shape, options: &PlanOptions) -> Result<Plan> {
        choosing::plan(&Wanted::new(context, self, options, maxima))
    }

    /// [`plan`](Attention::plan) for keys and values in a staircase cache, which are read as they
    /// lie, packed. The plan serves every cache of the same staircase and sizes.
    ///
    /// `maxima` gives the query heads, the batch and the most queries of a sequence; its `kv_len`
    /// doesn't matter. The storage of this attention is that of the queries. With at most 8 queries
    /// a sequence (decode, speculative decode) the keys of a row are split over workgroups and each
    /// is read once for all query heads that share it.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), prflash::Error> {
    /// use prflash::cache::{Chunk, KvCache, Staircase, StoredKeys};
    /// use prflash::{Attention, Context, DType, Layout, Queries, Shape, Tables, Tensor};
    /// let context = Context::new_blocking()?;
    /// // 8 query heads on 2 key/value heads, one query a step, conversations of up to 8,192 tokens.
    /// let shape = Shape::new(8, 2, 8192, 64)?.with_q_len(1)?;
    /// let mut cache = KvCache::new(&context, Staircase::recommended(), &shape, StoredKeys::AfterRotation)?;
    /// let plan = Attention::causal().plan_cached(&cache, &shape)?;
    /// let row = |heads| Tensor::upload(&context, DType::F32, Layout::heads_first(1, heads, 1, 64)?, &vec![0.1; heads * 64]);
    /// let (q, k, v) = (row(8)?, row(2)?, row(2)?);
    /// let conversation = cache.add();
    /// let input = cache.input(k.view(), v.view())?;
    /// let mut encoder = context.device().create_command_encoder(&Default::default());
    /// cache.append(&mut encoder, &input, &[Chunk { sequence: conversation, entry: 0, rows: 0..1 }])?;
    /// context.queue().submit([encoder.finish()]);
    /// let queries = [Queries { sequence: conversation, entry: 0, rows: 0..1, positions: None }];
    /// let result = plan.run_cached(&cache, q.view(), &queries, &Tables::new())?;
    /// # let _ = result;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Invalid argument (`maxima`) unless its key/value heads and dimensions are the cache's; and
    /// those of [`plan`](Attention::plan).
    pub fn plan_cached(&self, cache: &KvCache, maxima: &Shape) -> Result<Plan> {
        self.plan_cached_with(cache, maxima, &PlanOptions::new())
    }

    /// [`plan_cached`](Attention::plan_cached), computed as the options say.
    ///
    /// # Errors
    /// Those of [`plan_cached`](Attention::plan_cached) and [`plan_with`](Attention::plan_with).
    pub fn plan_cached_with(&self, cache: &KvCache, maxima: &Shape, options: &PlanOptions) -> Result<Plan> {
        choosing::plan(&Wanted::over(cache, self, options, maxima)?)
    }

    /// Measures which kernels are fastest for these shapes on this device, with this attention's
    /// storage and positions and these options; takes seconds to minutes.
    ///
    /// Shapes are put into classes ([`ShapeClass`](crate::tuning::ShapeClass)). The candidates of a
    /// class are all kernels of its kind that the device can run:
    /// [`Decode`](crate::kernels::Decode) for few queries, else every
    /// [`Tile`](crate::kernels::Tile), [`Matrix`](crate::kernels::Matrix) and
    /// [`Kernel::Naive`](crate::kernels::Kernel::Naive). One that is tried is first compared with
    /// the portable kernel (the naive one) on every shape of the class and on short and ragged ones
    /// beside, within what its arithmetic may deviate; the right ones are then timed in turn, round
    /// by round, by GPU timestamps or, on CPU adapters, where these lie, by the wall. The fastest
    /// in the geometric mean over the shapes is chosen, and the rule's own choice unless another
    /// gains 3%.
    ///
    /// Where there are more candidates than
    /// [`TuningOptions::with_trials`](crate::tuning::TuningOptions::with_trials) allows to try, the
    /// first tried are the rule's choice and those that are known to be good somewhere, and then
    /// those that a [`search`](crate::search) proposes, by [`Tpe`](crate::search::Tpe) over their
    /// parameters. Each is timed in turn with the rule's choice, so that it doesn't count whether
    /// the device has become slower meanwhile, and the best four are timed once more, together. The
    /// seed of the search is fixed: equal times give equal proposals.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), prflash::Error> {
    /// use prflash::tuning::TuningOptions;
    /// use prflash::{Attention, Context, PlanOptions, Shape};
    /// let context = Context::new_blocking()?;
    /// let (attention, shape) = (Attention::causal(), Shape::new(8, 2, 2048, 64)?);
    /// let tuning = TuningOptions::new(5)?.with_trials(48)?;
    /// let profile = attention.tune(&context, &[shape], &PlanOptions::new(), &tuning)?;
    /// for tuned in &profile.choices {
    ///     println!("{}: {} of {} tried, {}", tuned.class, tuned.tried, tuned.candidates, tuned.kernel);
    /// }
    /// let plan = attention.plan_with(&context, &shape, &PlanOptions::new().with_tuning(profile))?;
    /// # let _ = plan;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`TuningProfile::with`] puts the profiles of several attentions together.
    ///
    /// # Errors
    /// Invalid argument: no `shapes`, or options with a `kernel` of their own; those of
    /// [`plan`](Attention::plan) for the rule's choice. A kernel that the device refuses is passed
    /// over.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn tune(
        &self,
        context: &Context,
        shapes: &[Shape],
        options: &PlanOptions,
        tuning: &TuningOptions,
    ) -> Result<TuningProfile> {
        pollster::block_on(self.tune_async(context, shapes, options, tuning))
    }

    /// [`tune`](Attention::tune) without blocking where nothing can block, which is in browsers.
    /// Native backends wait inside.
    ///
    /// # Errors
    /// As `tune`.
    pub async fn tune_async(
        &self,
        context: &Context,
        shapes: &[Shape],
        options: &PlanOptions,
        tuning: &TuningOptions,
    ) -> Result<TuningProfile> {
        tuner::Tuner::new(context, self, options, *tuning)?.tune(None, shapes).await
    }

    /// The same for calls over staircase caches like `cache`: of its device, staircase and stored
    /// keys, but of their own, filled with random tokens up to the `kv_len` of each shape. The
    /// portable kernel is then the smallest tile that reads a cache.
    ///
    /// # Errors
    /// As [`tune`](Attention::tune); invalid argument (`shapes`) for another number of key/value
    /// heads or other dimensions than the cache's.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn tune_cached(
        &self,
        cache: &KvCache,
        shapes: &[Shape],
        options: &PlanOptions,
        tuning: &TuningOptions,
    ) -> Result<TuningProfile> {
        pollster::block_on(self.tune_cached_async(cache, shapes, options, tuning))
    }

    /// [`tune_cached`](Attention::tune_cached) as [`tune_async`](Attention::tune_async) is `tune`.
    ///
    /// # Errors
    /// As `tune_cached`.
    pub async fn tune_cached_async(
        &self,
        cache: &KvCache,
        shapes: &[Shape],
        options: &PlanOptions,
        tuning: &TuningOptions,
    ) -> Result<TuningProfile> {
        let want = cache.shape();
        let sizes = |shape: &Shape| [shape.kv_heads(), shape.head_dim(), shape.value_dim()];
        for shape in shapes {
            ensure!(
                sizes(shape) == sizes(want),
                "shapes",
                "expected (kv_heads, head_dim, value_dim) = {:?} as in the cache, got {:?}",
                sizes(want),
                sizes(shape)
            );
        }
        tuner::Tuner::new(cache.context(), self, options, *tuning)?.tune(Some(cache), shapes).await
    }
}
