//! What choosing on the GPU refuses.

use std::ops::Range;

use super::{Layer, shape, submit};
use crate::common::gpu;
use prflash::attention::{GpuSummaries, SummarizedKeys};
use prflash::cache::{KvCache, Staircase, StoredKeys};
use prflash::position::Pairing;
use prflash::sampling::content::{Estimate, Participation, Probe};
use prflash::{
    Attention, Bias, BlockGrid, Call, Context, DType, Error, Layout, Positions, Rope, Schedule, Seed,
    TableBuffer, Tables, Tensor,
};

fn named<T>(result: prflash::Result<T>) -> String {
    let Err(error) = result else { return "nothing".to_owned() };
    error.argument().map_or_else(|| error.to_string(), str::to_owned)
}

#[test]
fn content_selectors_refuse() {
    let Some(context) = gpu("content_selectors_refuse") else { return };
    let shape = shape(4, 2, 8, 200, 16);
    let (content, probe) = (Participation::content(4).unwrap(), Probe::causal(2).unwrap());
    let grid = BlockGrid::causal(&shape);
    let selector = |attention: Attention, grid: &BlockGrid, probe| {
        let plan = attention.plan(&context, &shape).unwrap();
        plan.selector(grid, &content, Estimate::Saturated, probe)
    };
    let causal = Attention::causal;
    assert_eq!(named(selector(causal(), &BlockGrid::full(&shape), probe)), "grid");
    let others = BlockGrid::causal(&super::shape(8, 2, 8, 200, 16));
    assert_eq!(named(selector(causal(), &others, probe)), "grid");
    assert_eq!(named(selector(causal(), &grid, Probe::causal(65).unwrap())), "nothing");
    let wide = grid.with_block_size(128).unwrap();
    assert_eq!(named(selector(causal(), &wide, Probe::causal(65).unwrap())), "probe");
    let alibi = causal().with_positions(Bias::alibi().into());
    assert_eq!(named(selector(alibi, &grid, probe)), "positions");
    let factor = causal().with_positions(Positions::new().with_harmonic_factor(4.0).unwrap());
    assert_eq!(named(selector(factor, &grid, probe)), "positions");
    let long = shape.with_q_len(1 << 20).unwrap().with_kv_len(1 << 20).unwrap();
    let error = selector(causal(), &BlockGrid::causal(&long), probe).err().unwrap();
    assert!(error.is_too_large() && error.argument() == Some("grid"), "{error}");
    let cache = |staircase| KvCache::new(&context, staircase, &shape, StoredKeys::AfterRotation).unwrap();
    let over = |staircase| {
        let plan = causal().plan_cached(&cache(staircase), &shape).unwrap();
        named(plan.selector(&grid, &content, Estimate::Saturated, probe))
    };
    assert_eq!(over(Staircase::recommended()), "cache");
    assert_eq!(over(Staircase::recommended().with_summaries(64).unwrap()), "nothing");
}

#[test]
fn content_summaries_refuse() {
    let Some(context) = gpu("content_summaries_refuse") else { return };
    let plan = Attention::causal().plan(&context, &shape(4, 2, 1, 200, 16)).unwrap();
    let layer = Layer::new(&context, &plan, 1, 16, 2);
    let new = |attention: &Attention, group, sequences| {
        GpuSummaries::new(&context, attention, &layer.k, group, sequences)
    };
    let causal = Attention::causal();
    assert_eq!(named(new(&causal.clone().with_storage(DType::F16), 16, 1)), "k");
    assert_eq!([0, 257].map(|group| named(new(&causal, group, 1))), ["group"; 2]);
    assert_eq!(named(new(&causal, 16, 0)), "sequences");
    let wide = Tensor::zeros(&context, DType::F32, Layout::heads_first(1, 1, 4, 260).unwrap()).unwrap();
    let error = GpuSummaries::new(&context, &causal, wide.view(), 16, 1).err().unwrap();
    assert!(error.is_too_large() && error.argument() == Some("k"), "{error}");
    for sequences in [1 << 19, usize::MAX] {
        let error = new(&causal, 16, sequences).err().unwrap();
        assert!(error.is_too_large() && error.argument() == Some("sequences"), "{error}");
    }
    let rope = |dim| causal.clone().with_positions(Rope::new(dim, 1e4, Pairing::Half).unwrap().into());
    assert_eq!(named(new(&rope(32), 16, 1)), "positions");
    let mut summaries = new(&rope(16), 16, 2).unwrap();
    let mut encode = |keys: &[SummarizedKeys]| {
        let mut result = Ok(());
        submit(&context, |encoder| result = summaries.encode(encoder, keys));
        named(result)
    };
    let keys = |keys, from| SummarizedKeys { keys, from, ..Default::default() };
    assert_eq!(encode(&[SummarizedKeys { sequence: 2, ..keys(0..9, 0) }]), "sequence");
    assert_eq!(encode(&[keys(0..9, 0), keys(0..9, 0)]), "sequence");
    for rows in [(0, 201), (7, 5), (200, 201)].map(|(start, end)| Range { start, end }) {
        assert_eq!(encode(&[keys(rows, 0)]), "keys");
    }
    assert_eq!(encode(&[SummarizedKeys { entry: 1, ..keys(0..9, 0) }]), "keys");
    assert_eq!(encode(&[keys(0..9, 10)]), "from");
    assert_eq!(encode(&[keys(0..9, 1)]), "from");
    assert_eq!(encode(&[SummarizedKeys { position: 195, ..keys(0..9, 0) }]), "position");
    assert_eq!(encode(&[SummarizedKeys { position: i64::MIN, ..keys(0..9, 0) }]), "position");
    assert_eq!(encode(&[keys(0..9, 0)]), "nothing");
    assert_eq!(encode(&[keys(1..12, 9)]), "from");
    assert_eq!(encode(&[SummarizedKeys { position: 1, ..keys(0..12, 9) }]), "from");
    assert_eq!(encode(&[keys(0..12, 9), SummarizedKeys { sequence: 1, ..keys(0..12, 0) }]), "nothing");
    assert_eq!((summaries.len(0), summaries.len(1), summaries.len(9)), (12, 12, 0));
    assert_eq!(named(summaries.read_blocking(2)), "sequence");
}

#[test]
fn content_calls_refuse() {
    let Some(context) = gpu("content_calls_refuse") else { return };
    let shape = shape(4, 2, 1, 200, 16).with_batch(2).unwrap();
    let plan = Attention::causal().plan(&context, &shape).unwrap();
    let grid = BlockGrid::causal(&shape.with_kv_len(180).unwrap()).with_block_size(32).unwrap();
    let participation = Participation::content(3).unwrap();
    let of = |plan: &prflash::Plan| {
        plan.selector(&grid, &participation, Estimate::Saturated, Probe::causal(1).unwrap()).unwrap()
    };
    let selector = of(&plan);
    let mut layer = Layer::new(&context, &plan, 1, 16, 2);
    let summarized =
        |sequence, keys| SummarizedKeys { sequence, entry: sequence, keys, ..Default::default() };
    submit(&context, |encoder| {
        layer.summaries.encode(encoder, &[summarized(0, 0..150), summarized(1, 0..150)]).unwrap();
    });
    let encode = |call: Call<'_>| {
        let mut result = Ok(());
        submit(&context, |encoder| result = plan.encode(encoder, &layer.bound, &call));
        named(result)
    };
    let lengths = |len| Call::lengths(1, len);
    let over = selector.over(&layer.summaries);
    assert_eq!(encode(lengths(150).with_selection(over)), "nothing");
    assert_eq!(encode(lengths(181).with_selection(over)), "selection");
    let seeds = [Seed::new(1); 3];
    assert_eq!(encode(lengths(150).with_selection(over.with_seeds(&seeds))), "seeds");
    assert_eq!(encode(lengths(150).with_selection(over.with_seeds(&seeds[..2]))), "nothing");
    let schedule = Schedule::dense(&BlockGrid::causal(&shape.with_kv_len(150).unwrap())).unwrap();
    let tables = TableBuffer::new(&context, &Tables::from(&schedule)).unwrap();
    assert_eq!(encode(lengths(150).with_tables(&tables).with_selection(over)), "tables");
    let other_plan = Attention::causal().plan(&context, &shape).unwrap();
    let others = of(&other_plan);
    assert_eq!(encode(lengths(150).with_selection(others.over(&layer.summaries))), "selection");
    assert_eq!(encode(lengths(150).with_selection(selector.cached())), "summaries");
    // Of another tensor, of other scores, in groups that blocks aren't made of, and elsewhere.
    let other = Layer::new(&context, &plan, 2, 16, 2);
    assert_eq!(encode(lengths(150).with_selection(selector.over(&other.summaries))), "summaries");
    let of =
        |attention: &Attention, group| GpuSummaries::new(&context, attention, &layer.k, group, 2).unwrap();
    let capped = of(&Attention::causal().with_soft_cap(3.0).unwrap(), 16);
    assert_eq!(encode(lengths(150).with_selection(selector.over(&capped))), "summaries");
    let ragged = of(plan.attention(), 24);
    assert_eq!(encode(lengths(150).with_selection(selector.over(&ragged))), "summaries");
    let twice = [0, 1].map(|sequence| prflash::attention::Sequence {
        entry: 0,
        queries: 0..1,
        keys: sequence..150,
        positions: None,
    });
    assert_eq!(encode(Call::sequences(&twice[1..]).with_selection(over)), "summaries");
    // What was weighed by sampling has the same scores.
    let weighed = of(&Attention::causal().with_lse(true).with_correction(1.0).unwrap(), 16);
    assert_eq!(encode(lengths(150).with_selection(selector.over(&weighed))), "nothing");
    let elsewhere: Context = Context::new_blocking().unwrap();
    let plan_there = Attention::causal().plan(&elsewhere, &shape).unwrap();
    let there = Layer::new(&elsewhere, &plan_there, 1, 16, 2);
    let mut result: prflash::Result<()> = Ok(());
    submit(&context, |encoder| {
        let call = lengths(150).with_selection(selector.over(&there.summaries));
        result = plan.encode(encoder, &layer.bound, &call);
    });
    let error: Error = result.unwrap_err();
    assert_eq!(error.argument(), Some("summaries"), "{error}");
}
