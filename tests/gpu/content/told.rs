//! What a selector says of its lists: what they read, and what they leave out.

use super::*;

/// What a call says that it reads is what its lists have, once for heads that share keys; of all
/// blocks of a cache it is what the cache says.
#[test]
fn content_says_what_it_reads() {
    let Some(context) = gpu("content_says_what_it_reads") else { return };
    let (group, block) = (16, 16);
    for (granularity, dtype) in [(Granularity::Head, DType::F32), (Granularity::KvHead, DType::F16)] {
        let shape = shape(4, 2, 40, 333, 32).with_value_dim(16).unwrap();
        let attention = Attention::causal().with_storage(dtype);
        let mut problem = Problem::random(attention.clone(), shape, 4);
        problem.k = keys(3, 2, 333, 32, dtype);
        let plan = problem.plan(&context).unwrap();
        let qkv = problem.upload(&context, Storage::HeadsFirst).unwrap();
        let output = zeros(&context, DType::F32, output_layout(&shape));
        let bound = plan.bind(&operands(&qkv, &output)).unwrap();
        let grid = BlockGrid::causal(&shape).with_block_size(block).unwrap().with_granularity(granularity);
        let (participation, probe) = (Participation::content(6).unwrap(), Probe::causal(2).unwrap());
        let selector = plan.selector(&grid, &participation, Estimate::Saturated, probe).unwrap();
        assert!(selector.read_traffic_blocking().unwrap().is_empty());
        let mut summaries = GpuSummaries::new(&context, &attention, &qkv[1], group, 1).unwrap();
        submit(&context, |encoder| {
            let all = SummarizedKeys { keys: 0..333, ..Default::default() };
            summaries.encode(encoder, &[all]).unwrap();
            let call = Call::lengths(40, 333).with_selection(selector.over(&summaries));
            plan.encode(encoder, &bound, &call).unwrap();
        });
        let list = selector.read_blocking().unwrap().remove(0);
        let (mut blocks, mut tokens, mut groups) = (0, 0, 0);
        for row in 0..grid.query_blocks() {
            for kv_head in 0..2 {
                let listed = |block: usize| {
                    let of = |head| list.find(grid.group_of_head(head), row, block).is_some();
                    of(2 * kv_head) || of(2 * kv_head + 1)
                };
                let read: Vec<usize> = (0..grid.key_blocks()).filter(|&block| listed(block)).collect();
                blocks += read.len() as u64;
                tokens += (0..333).filter(|token| read.contains(&(token / block))).count() as u64;
                // What any row of the query block sees.
                groups += ((293 / block + row + 1) * block).min(333).div_ceil(group) as u64;
            }
        }
        let got = selector.read_traffic_blocking().unwrap()[0];
        assert_eq!((got.blocks, got.kv_bytes), (blocks, tokens * (32 + 16) * dtype.size() as u64));
        // A byte for a mean and a reach of each channel, and two words of scales.
        assert_eq!(got.summary_bytes, groups * (2 * 32 + 8));
    }

    let shape = shape(4, 2, 1, 700, 32);
    let staircase = Staircase::recommended().with_summaries(32).unwrap();
    let mut cache = KvCache::new(&context, staircase, &shape, StoredKeys::AfterRotation).unwrap();
    let upload = |heads: usize, len: usize, values: &[f32]| {
        let layout = Layout::heads_first(1, heads, len, 32).unwrap();
        Tensor::upload(&context, DType::F32, layout, values).unwrap().view().clone()
    };
    let rows = upload(2, 700, &keys(5, 2, 700, 32, DType::F32));
    let sequence = cache.add();
    let input = cache.input(&rows, &rows).unwrap();
    submit(&context, |encoder| {
        cache.append(encoder, &input, &[Chunk { sequence, entry: 0, rows: 0..700 }]).unwrap();
    });
    let plan = Attention::causal().plan_cached(&cache, &shape).unwrap();
    let q = upload(4, 1, &numbers(8, 4 * 32));
    let output = zeros(&context, DType::F32, output_layout(&shape));
    let bound = plan.bind_queries(&q, output.view(), None).unwrap();
    let grid = BlockGrid::causal(&shape).with_block_size(32).unwrap().with_granularity(Granularity::KvHead);
    let queries = [Queries { sequence, entry: 0, rows: 0..1, positions: None }];
    let (standing, memory) = (cache.standing(sequence).unwrap(), cache.memory(sequence).unwrap());
    let mut least = u64::MAX;
    for (count, all) in [(6, false), (22, true)] {
        let (participation, probe) = (Participation::content(count).unwrap(), Probe::causal(1).unwrap());
        let selector = plan.selector(&grid, &participation, Estimate::Saturated, probe).unwrap();
        submit(&context, |encoder| {
            let call = Call::cached(&cache, &queries).with_selection(selector.cached());
            plan.encode(encoder, &bound, &call).unwrap();
        });
        let got = selector.read_traffic_blocking().unwrap()[0];
        assert!(got.summary_bytes == memory.summaries && got.summary_bytes > 0, "{got:?}, {memory:?}");
        assert_eq!(got.kv_bytes == standing.bytes_read(&shape), all, "{got:?}");
        assert!(got.kv_bytes < least || all, "{got:?}");
        least = got.kv_bytes;
    }
}

/// What is said to be left out at most is never less than what is, nor much more where groups are
/// small; the estimate is the host's.
#[test]
fn content_says_what_is_left_out() {
    let Some(context) = gpu("content_says_what_is_left_out") else { return };
    let causal = Attention::causal;
    let attentions = [
        causal(),
        causal().with_soft_cap(2.0).unwrap(),
        causal().with_window(150).unwrap(),
        Attention::full().with_scale(0.7).unwrap(),
    ];
    for (attention, group) in attentions.iter().flat_map(|of| [1, 4, 16, 64].map(|group| (of, group))) {
        for (q_len, kv_len) in [(1, 500), (90, 333)] {
            let shape = shape(4, 2, q_len, kv_len, 16);
            let mut problem = Problem::random(attention.clone(), shape, 4);
            problem.k = keys(3, 2, kv_len, 16, DType::F32);
            let plan = problem.plan(&context).unwrap();
            let qkv = problem.upload(&context, Storage::HeadsFirst).unwrap();
            let output = zeros(&context, DType::F32, output_layout(&shape));
            let bound = plan.bind(&operands(&qkv, &output)).unwrap();
            let grid =
                if attention.is_causal() { BlockGrid::causal(&shape) } else { BlockGrid::full(&shape) };
            let grid = grid.with_block_size(16).unwrap().with_granularity(Granularity::KvHead);
            let (participation, probe) = (Participation::content(6).unwrap(), Probe::causal(2).unwrap());
            let selector = plan.selector(&grid, &participation, Estimate::Saturated, probe).unwrap();
            assert!(selector.read_missing_blocking().unwrap().is_empty());
            let selector = selector.with_missing().unwrap();
            let mut summaries = GpuSummaries::new(&context, attention, &qkv[1], group, 1).unwrap();
            assert_eq!(summaries.group(), group);
            submit(&context, |encoder| {
                let all = SummarizedKeys { keys: 0..kv_len, ..Default::default() };
                summaries.encode(encoder, &[all]).unwrap();
                let call = Call::lengths(q_len, kv_len).with_selection(selector.over(&summaries));
                plan.encode(encoder, &bound, &call).unwrap();
            });
            let (got, lists) = (selector.read_missing_blocking().unwrap(), selector.read_blocking().unwrap());
            let (got, list) = (&got[0], &lists[0]);
            assert_eq!(got.len(), 4 * grid.query_blocks());
            // The first row of each query block.
            let first = kv_len - q_len;
            let rows: Vec<usize> =
                (0..grid.query_blocks()).map(|row| ((first / 16 + row) * 16).saturating_sub(first)).collect();
            let stored = summaries.read_blocking(0).unwrap();
            let exact = attention.summarize(&shape, &problem.k, 1, None).unwrap();
            let [exact, estimated] = [&exact, &stored].map(|keys| {
                attention
                    .block_masses(&grid, &problem.q, keys, Estimate::Saturated, &rows, &Tables::new())
                    .unwrap()
            });
            let mut over = 0.0f64;
            for (index, got) in got.iter().enumerate() {
                let (head, row) = (index / rows.len(), index % rows.len());
                let listed = list.blocks(grid.group_of_head(head), row);
                assert_eq!(got.blocks, listed.len());
                let share = |masses: &[f64]| {
                    let masses = &masses[index * grid.key_blocks()..(index + 1) * grid.key_blocks()];
                    let sum = |inside: bool| -> f64 {
                        let of = |&(block, _): &(usize, &f64)| listed.contains(&block) == inside;
                        masses.iter().enumerate().filter(of).map(|(_, mass)| mass.exp()).sum()
                    };
                    sum(false) / (sum(false) + sum(true))
                };
                let (want, got_most) = (share(&exact), f64::from(got.at_most));
                let story = format!("{attention:?}, groups of {group}, {q_len} of {kv_len}, {head}, {row}");
                assert!((want - 1e-6..=1.0).contains(&got_most), "{story}: {got_most} for {want}");
                over = over.max(got_most - want);
                // Groups that the row doesn't see whole are those of its own block, if blocks are
                // no smaller.
                if group <= 16 && (attention.is_causal() || group == 1) && row > 0 {
                    let want = share(&estimated);
                    let got = f64::from(got.estimated);
                    let near = (got - want).abs() < 0.02 || got > want;
                    assert!(near, "{story}: {got} for {want} by the estimate");
                }
                if q_len == 1 {
                    let want = share(&estimated);
                    assert!((f64::from(got.estimated) - want).abs() < 0.01, "{story}: {got:?} for {want}");
                }
            }
            println!("{attention:?}, groups of {group}, {q_len} of {kv_len}: {over:.3} more at most");
            // Groups of one key have their products, but for 8 bits.
            assert!(over < 0.3 || group > 1, "{over}");
        }
    }
}
