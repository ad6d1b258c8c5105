// block_scores: how much attention the keys of each block may get from a query, estimated from what
// summaries say of groups of them:
//
//   e(j) = log2 Σ over the groups g of block j of n_g·2^(x_g·log2 e)    in units of 1/1024
//   a = Σ q·mean    s² = Σ (q·reach/z)²
//   x = a + min(s²/2, z·s) (saturated)    Σ q·mean + |q|·reach (bound)    a (mean key)
//
// with the n_g keys of the group that the query sees, z by the number of tokens in the group, q
// rotated and scaled, and x capped where scores are. The first of three passes (block_shares,
// block_select): `Attention::block_scores` in Rust.
//
// or, for what is missing at most, by what is never above the mass (least): the mean of e^x is no
// less than e of the mean (Jensen), which is a but for the rounding of means; of groups that aren't
// seen whole, and where scores are capped, Σ q·mean − |q|·reach.
//
// Shapes      q (batch, H, q_len, D) · summaries, of tensors or in the packs of a staircase cache:
//             of each group codes of D means and D reaches in 8 bits, and their steps
//             (src/sampling/content/packed.rs) · scores: masses [H, query blocks, probes, key
//             blocks]
// Workgroups  one per (sequence, query block, key/value head, ROWS of its rows, tile of groups),
//             numbered in one line and folded into x and y. A row is a query of a query head.
// Lanes       a group each. Codes pass through workgroup memory, so that they are read side by
//             side; a query at addresses that are uniform over the workgroup.
// Barriers    in loops and branches that depend on the workgroup alone

#import shared/load_$(STORAGE)
#import sampling/content
#import attention/scores
#if ROPE: #import attention/turn
#if CACHED: #import attention/arena

@group(2) @binding(0) var<storage, read> q: array<InputQuad>;
#unless CACHED: @group(3) @binding(0) var<storage, read> summaries: array<u32>;

var<workgroup> queries: array<vec4<f32>, ROWS * HEAD_QUADS>;
// One word more than is staged, so that lanes read from different banks.
var<workgroup> staged: array<u32, INVOCATIONS * (STAGED_WORDS + 1u)>;
var<workgroup> bases: array<u32, INVOCATIONS>;
var<workgroup> masses: array<f32, ROWS * INVOCATIONS>;

// A query of a query head.
struct QueryRow {
    exists: bool,
    row: i32,
    head: u32,      // among those that are bound here
    at: u32,        // where its masses begin
    visible: Visible,
}

fn query_row(sequence: ContentSequence, query_block: u32, kv_head: u32, place: u32) -> QueryRow {
    let probe = place / params.heads_per_kv;
    let row = probe_row(sequence, query_block, probe);
    let head = kv_head * params.heads_per_kv + place % params.heads_per_kv;
    let at = sequence.mass_base
        + (((params.first_head + head) * sequence.query_blocks + query_block) * params.probes + probe) * sequence.key_blocks;
    let exists = probe < params.probes;
    var visible = visible_keys(sequence, max(row, 0));
    if row < 0 || !exists {
        visible = Visible(0, 0);
    }
    return QueryRow(exists, max(row, 0), head, at, visible);
}

// Where a group's summary begins; nowhere, where its keys were dropped.
struct Summary {
    at: u32,
    exists: bool,
}

fn summary_of(sequence: ContentSequence, kv_head: u32, group: u32) -> Summary {
#if CACHED
    // Behind what the pack of its segment has else.
    let groups = cache.segment / cache.summary_tokens;
    let segment = group / groups;
    let rung = cache.key_rungs[rung_of_keys(sequence.segments - 1u - segment)];
    let end = rung.base + (segment % rung.packs + 1u) * rung.pack_words;
    let base = sequence.summary_base + kv_head * cache.key_head_stride;
    let exists = rung.bits > 0u;
    return Summary(base + select(0u, end - cache.summary_words + group % groups * SUMMARY_WORDS, exists), exists);
#else
    return Summary(sequence.summary_base + kv_head * params.summary_stride + group * SUMMARY_WORDS, true);
#end CACHED
}

// A word of a summary.
fn summary_word(at: u32) -> u32 {
    #if CACHED: return key_words[at];
    #unless CACHED: return summaries[at];
}

// Whether there is a summary of every key of a block.
fn is_known(sequence: ContentSequence, block: u32) -> bool {
    return min((block + 1u) * params.block_size, sequence.kv_len) <= sequence.known;
}

// How many of the keys first ≤ j < end of a group a row sees, of which it may know.
fn seen_keys(visible: Visible, first: u32, end: u32, group_end: u32) -> f32 {
    if (params.flags & FLAG_WHOLE) != 0u && i32(group_end) > visible.hi {
        return 0.0; // its summary tells of keys that come after the row
    }
    return f32(max(min(i32(end), visible.hi) - max(i32(first), visible.lo), 0));
}

// log2 of the mass of so many keys.
fn mass_of(estimate: f32, keys: f32) -> f32 {
    return select(LOWEST, estimate * LOG2_E + log2(max(keys, 1.0)), keys > 0.0);
}

fn units(mass: f32) -> i32 {
    let farthest = f32(FARTHEST);
    return select(i32(round(clamp(mass * f32(OCTAVE), -farthest, farthest))), MASKED, mass <= 0.5 * LOWEST);
}

@compute @workgroup_size(INVOCATIONS)
fn block_scores(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let item = place_in_line(workgroup, workgroups);
    let kv_heads = params.heads_here / params.heads_per_kv;
    let tile = item % params.tiles;
    let chunk = item / params.tiles % params.row_chunks;
    let kv_head = item / (params.tiles * params.row_chunks) % kv_heads;
    let query_block = item / (params.tiles * params.row_chunks * kv_heads) % params.query_blocks;
    let index = item / (params.tiles * params.row_chunks * kv_heads * params.query_blocks);
    if index >= params.sequences {
        return;
    }
    let sequence = sequences[index];
    let first_block = tile * params.tile_blocks;
    if sequence.here == 0u || query_block >= sequence.query_blocks || first_block >= sequence.key_blocks {
        return;
    }
    let end_block = min(first_block + params.tile_blocks, sequence.key_blocks);
    let first_group = tile * params.tile_groups;
    let first_key = i32(first_block * params.block_size);
    let end_key = i32(min(end_block * params.block_size, sequence.known));
    var seen = false;
#for r in ROWS
    let row$r = query_row(sequence, query_block, kv_head, chunk * ROWS + $ru);
    seen = seen || (row$r.visible.lo < end_key && row$r.visible.hi > first_key);
#end
    if !seen {
        // Not a key of which there is a summary.
        for (var block = first_block + lane; block < end_block; block += INVOCATIONS) {
#for r in ROWS
            if row$r.exists {
                scores[row$r.at + block] = select(CERTAIN, MASKED, is_known(sequence, block));
            }
#end
        }
        return;
    }

    let last_group = (sequence.known - 1u) / params.group;
    let group = first_group + lane;
    let summary = summary_of(sequence, kv_head, min(group, last_group));
    bases[lane] = summary.at;
    for (var i = lane; i < ROWS * HEAD_QUADS; i += INVOCATIONS) {
        let c = i % HEAD_QUADS;
        let row = query_row(sequence, query_block, kv_head, chunk * ROWS + i / HEAD_QUADS);
        var quad = vec4<f32>(0.0);
        if row.exists {
            let at = sequence.q_base + row.head * params.q_head_stride + u32(row.row) * params.q_row_stride;
            quad = load_quad(q[at + c]);
            #if ROPE: quad = rotated(quad, load_quad(q[at + partner(c)]), sequence.q_position + row.row, c);
        }
        queries[i] = quad * params.scale;
    }
#for r in ROWS
    var product$r = 0.0;
    var reached$r = 0.0;
    #if LEAST: var size$r = 0.0;
#end
    for (var first = 0u; first < HEAD_QUADS; first += STAGED_QUADS) {
        workgroupBarrier();
        for (var i = lane; i < INVOCATIONS * STAGED_WORDS; i += INVOCATIONS) {
            let owner = i / STAGED_WORDS;
            let word = i % STAGED_WORDS;
            // Means, then reaches; past the last channel there are others, which nobody reads.
            let c = min(first + word % STAGED_QUADS, HEAD_QUADS - 1u);
            staged[owner * (STAGED_WORDS + 1u) + word] =
                summary_word(bases[owner] + word / STAGED_QUADS * SUMMARY_QUADS + c);
        }
        workgroupBarrier();
        let here = lane * (STAGED_WORDS + 1u);
        let quads = min(STAGED_QUADS, HEAD_QUADS - first);
        for (var c = 0u; c < quads; c++) {
            let mean_codes = vec4<u32>(staged[here + c]) << vec4<u32>(24u, 16u, 8u, 0u);
            let mean = vec4<f32>(bitcast<vec4<i32>>(mean_codes) >> vec4<u32>(24u));
#if REACHES
            let reach = vec4<f32>((vec4<u32>(staged[here + STAGED_QUADS + c]) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u));
#end
#for r in ROWS
            {
                let query = queries[$ru * HEAD_QUADS + first + c];
                product$r += dot(query, mean);
#if SQUARES
                let reached = query * reach;
                reached$r += dot(reached, reached);
#end
                #if BOUND: reached$r += dot(abs(query), reach);
#if LEAST
                reached$r += dot(abs(query), reach);
                size$r += dot(abs(query), vec4<f32>(1.0));
#end
            }
#end
        }
    }

    let mean_step = bitcast<f32>(summary_word(summary.at + 2u * SUMMARY_QUADS));
    let reach_step = bitcast<f32>(summary_word(summary.at + 2u * SUMMARY_QUADS + 1u));
    let exists = summary.exists && lane < params.tile_groups && group <= last_group;
    let group_key = group * params.group;
    let group_end = min(group_key + params.group, sequence.known);
#if SQUARES
    let z = select(params.spread, sequence.last_spread, group == last_group);
    let by = select(0.0, SHRINK * reach_step / z, group_end > group_key + 1u);
#end
#for r in ROWS
    var estimate$r = product$r * mean_step;
#if SQUARES
    let deviation$r = sqrt(reached$r) * by;
    estimate$r += min(0.5 * deviation$r * deviation$r, z * deviation$r);
#end
    #if BOUND: estimate$r += reached$r * reach_step;
#if LEAST
    // A mean is half a step from its code at most, and what its own rounding adds is little beside
    // the larger one of the two steps.
    let by_mean$r = estimate$r - size$r * (0.52 * mean_step + 0.02 * reach_step);
    estimate$r -= reached$r * reach_step;
    let whole$r = select(by_mean$r, capped(estimate$r), (params.flags & FLAG_SOFT_CAP) != 0u);
#end
    estimate$r = capped(estimate$r);
#end
    if params.blocks_per_group > 1u {
        for (var part = 0u; part < params.blocks_per_group; part++) {
            let block = group * params.blocks_per_group + part;
            if lane < params.tile_groups && block < sequence.key_blocks {
                let end = min((block + 1u) * params.block_size, sequence.kv_len);
#for r in ROWS
                if row$r.exists {
                    let keys = seen_keys(row$r.visible, block * params.block_size, end, group_end);
                    let mass = units(mass_of(estimate$r, select(0.0, keys, exists)));
                    scores[row$r.at + block] = select(CERTAIN, mass, is_known(sequence, block));
                }
#end
            }
        }
        return;
    }
#for r in ROWS
    {
        let keys = seen_keys(row$r.visible, group_key, group_end, group_end);
#if LEAST
        let estimate = select(estimate$r, whole$r, keys == f32(group_end - group_key));
#else
        let estimate = estimate$r;
#end
        masses[$ru * INVOCATIONS + lane] = mass_of(estimate, select(0.0, keys, exists));
    }
#end
    workgroupBarrier();
    for (var block = first_block + lane; block < end_block; block += INVOCATIONS) {
        let known = is_known(sequence, block);
        let first = (block - first_block) * params.groups_per_block;
#for r in ROWS
        if row$r.exists {
            var most = LOWEST;
            for (var i = 0u; i < params.groups_per_block; i++) {
                most = max(most, masses[$ru * INVOCATIONS + first + i]);
            }
            var sum = 0.0;
            for (var i = 0u; i < params.groups_per_block; i++) {
                sum += exp2(masses[$ru * INVOCATIONS + first + i] - most);
            }
            let mass = units(select(LOWEST, most + log2(sum), most > LOWEST));
            scores[row$r.at + block] = select(CERTAIN, mass, known);
        }
#end
    }
}
