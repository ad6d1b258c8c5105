//! Attention on the GPU over caches that step down as tokens age, a token at a time.

use prflash::cache::{Chunk, KvCache, KvInput, Memory, SequenceId, Staircase, StoredKeys};
use prflash::rotation::{RotationBound, RotationPlan, Rows};
use prflash::{Bound, Call, Context, DType, Layout, Plan, Positions, Queries, Result, Shape, Tensor, wgpu};

use super::MOST_TOKENS;
use super::model::Config;

/// The attention of all layers, and what they remember.
pub(super) struct Attention {
    context: Context,
    plan: Plan,
    bound: Bound,
    rotation: (RotationPlan, RotationBound),
    layers: Vec<(KvCache, KvInput, SequenceId)>,
    /// The query, key and value at hand, and the result.
    rows: [Tensor; 3],
    output: Tensor,
    shape: Shape,
    tokens: usize,
}

impl Attention {
    pub(super) async fn new(context: &Context, config: &Config) -> Result<Self> {
        let Config { layers, heads, kv_heads, head_dim, rope, .. } = config;
        let shape = Shape::new(*heads, *kv_heads, 1, *head_dim)?.with_kv_len(MOST_TOKENS)?;
        let rows = |heads| Tensor::zeros(context, DType::F32, Layout::tokens_first(1, 1, heads, *head_dim)?);
        let (q, k, v, output) = (rows(*heads)?, rows(*kv_heads)?, rows(*kv_heads)?, rows(*heads)?);
        let plan_rotation = rope.plan_rotation(context, DType::F32, MOST_TOKENS)?;
        plan_rotation.prepare(|_| {}).await?;
        let rotation = plan_rotation.bind(k.view())?;
        let layers = (0..*layers).map(|_| -> Result<_> {
            let staircase = Staircase::recommended();
            let mut cache = KvCache::new(context, staircase, &shape, StoredKeys::AfterRotation)?;
            let input = cache.input(k.view(), v.view())?;
            let sequence = cache.add();
            Ok((cache, input, sequence))
        });
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let attention = prflash::Attention::causal().with_positions(Positions::from(rope.clone()));
        // A model has one layer at least, and caches that are alike have the same kernels.
        let cache = &layers[0].0;
        cache.prepare(DType::F32, |_| {}).await?;
        let plan = attention.plan_cached(cache, &shape)?;
        plan.prepare(|_| {}).await?;
        let bound = plan.bind_queries(q.view(), output.view(), None)?;
        Ok(Self {
            context: context.clone(),
            plan,
            bound,
            rotation: (plan_rotation, rotation),
            layers,
            rows: [q, k, v],
            output,
            shape,
            tokens: 0,
        })
    }

    /// Forgets everything; the room stays.
    pub(super) fn start(&mut self) -> Result<()> {
        for (cache, _, sequence) in &mut self.layers {
            cache.remove(*sequence)?;
            *sequence = cache.add();
        }
        self.tokens = 0;
        Ok(())
    }

    /// Remembers the key and value of a token, and gives what its query sees: `[heads · head_dim]`.
    pub(super) async fn attend(&mut self, layer: usize, rows: [&[f32]; 3]) -> Result<Vec<f32>> {
        let queue = self.context.queue();
        for (tensor, row) in self.rows.iter().zip(rows) {
            queue.write_buffer(tensor.view().buffer(), 0, &DType::F32.encode(row));
        }
        let device = self.context.device();
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let (cache, input, sequence) = &mut self.layers[layer];
        let sequence = *sequence;
        let position = cache.len(sequence)?;
        let (rotation, bound) = &self.rotation;
        rotation.encode(&mut encoder, bound, &[Rows::new(0, 0..1).at_position(position as i64)])?;
        cache.append(&mut encoder, input, &[Chunk { sequence, entry: 0, rows: 0..1 }])?;
        let queries = [Queries { sequence, entry: 0, rows: 0..1, positions: None }];
        self.plan.encode(&mut encoder, &self.bound, &Call::cached(cache, &queries))?;
        queue.submit([encoder.finish()]);
        self.tokens = position + 1;
        self.output.read(&self.context).await
    }

    /// Tokens that every layer remembers once the last one was read.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// How every layer remembers.
    pub(super) fn staircase(&self) -> &Staircase {
        self.layers[0].0.staircase()
    }

    /// The bytes of all layers together.
    pub(super) fn memory(&self) -> Memory {
        let mut memory = self.staircase().standing(self.tokens).memory(&self.shape);
        let layers = self.layers.len() as u64;
        let times = |bytes: &mut u64| *bytes *= layers;
        memory.keys.iter_mut().chain(&mut memory.values).for_each(times);
        memory.residual *= layers;
        memory.sinks *= layers;
        memory
    }

    /// Bytes that the same tokens would take in f16.
    pub(super) fn f16_bytes(&self) -> u64 {
        (4 * self.layers.len() * self.tokens * self.shape.kv_heads() * self.shape.head_dim()) as u64
    }

    /// Whether everything could be stored.
    pub(super) async fn check(&self) -> Result<()> {
        for (cache, ..) in &self.layers {
            cache.check().await?;
        }
        Ok(())
    }
}
