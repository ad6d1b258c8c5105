// attention_decode: FlashDecoding, for a few queries. The same function as attention_naive, which
// explains it, over a split of the keys:
//
//   m = max s      l = Σ 4^(s−m)      o = Σ 4^(s−m)·v         (scores s in powers of four)
//
// merge_splits makes one row of the splits, and decides what it comes to (ending.wgsl). Why powers
// of four: attention_tiled says it.
//
// Shapes      q (batch, H, q_len, D) · k (batch, H_kv, kv_len, D) · v (batch, H_kv, kv_len, D_v),
//             or a staircase cache · states (rows × splits, D_v + 4), f32
// Workgroups  one per (sequence, row tile, heads that share keys and a block list, ROWS_HELD of its
//             rows, split of the list's blocks)
// Lanes       four to a row, one for each component of every quad, and ROW_SETS such rows each: q
//             and o take D/4 + D_v/4 registers a row. A key or value is read at an address that is
//             uniform over the workgroup, once for all heads that share it, and each lane takes its
//             component. Over rotated codes four such teams share rows and have tokens of their
//             own, with states of their own, which they join at the end.
// Cache       packed words are read as they lie: the same word serves four lanes (values) or four
//             tokens (keys). Rotated codes: walk_rotated.wgsl. Of others, the scale of a group
//             multiplies p once per token (values), the smallest number of a group counts once per
//             group: Σ q·(min + code·step) = Σ q·min + Σ q·step·code.
// Barriers    with SUBGROUP_QUADS none: the four lanes add up by quad operations. Without, through
//             workgroup memory, two per key (or four keys of a cache), in loops whose bounds depend
//             on the workgroup alone. Where teams join, some more.

#import shared/load_$(STORAGE)
#import attention/work
#import attention/walk
#import attention/scores
#if CACHED: #import attention/expand
#if MASKED: #import attention/mask
#if PAGED: #import attention/pages
#if ROTATED_CODES: #import attention/levels
#if POSITIONS: #import attention/positions

@group(2) @binding(0) var<storage, read> q: array<InputQuad>;
#if CACHED
@group(2) @binding(1) var<storage, read_write> states: array<f32>;
#else
@group(2) @binding(1) var<storage, read> k: array<InputQuad>;
@group(2) @binding(2) var<storage, read> v: array<InputQuad>;
@group(2) @binding(3) var<storage, read_write> states: array<f32>;
#end

#unless SUBGROUP_QUADS: var<workgroup> parts: array<vec4<f32>, INVOCATIONS * ROW_SETS>;
#if ROTATED_CODES: var<workgroup> shares: array<f32, INVOCATIONS * (4u * VALUE_PARTS + 1u)>;

// A lane's component of a quad.
fn pick(quad: vec4<f32>, odd: bool, high: bool) -> f32 {
    return select(select(quad.x, quad.y, odd), select(quad.z, quad.w, odd), high);
}

fn pick_word(quad: vec4<u32>, odd: bool, high: bool) -> u32 {
    return select(select(quad.x, quad.y, odd), select(quad.z, quad.w, odd), high);
}

#if ROTATED_CODES
// The quad of channels of which a lane has part t: of 32 channels it has eight in a row.
fn own_quad(part: u32, component: u32) -> u32 {
    return part / 2u * 8u + 2u * component + part % 2u;
}

#let row_of_set = 0u
#insert attention/decode/turn_row with side = head, parts = HEAD_PARTS, number = 0u, scale = HEAD_TURN
#insert attention/decode/turn_row with side = value, parts = VALUE_PARTS, number = 1u, scale = VALUE_TURN
#else
#let row_of_set = lane / LANES_EACH
#let row_at = max(start + $(token), first) - first
#end

@compute @workgroup_size(INVOCATIONS)
fn attention_decode(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
#if SUBGROUP_QUADS
    @builtin(subgroup_invocation_id) place: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_size) subgroup_size: u32,
#else
    @builtin(local_invocation_index) lane: u32,
#end
) {
    let work = work_item(workgroup, workgroups);
    if !work.exists {
        return;
    }
    let split = work.head % params.splits;
    let chunk = work.head / params.splits % params.row_chunks;
    let first_head = work.head / (params.splits * params.row_chunks) * params.heads_each;
    let tile = work.tile;
    let sequence = sequences[work.sequence];
    if tile / params.tiles_per_block >= sequence.query_blocks {
        return; // this sequence is shorter than the longest
    }
    let rows = row_tile(sequence, tile);
    let count = u32(max(rows.last_row - rows.first_row + 1, 0)) * params.heads_each;
    if chunk * ROWS_HELD >= count {
        return;
    }
#if SUBGROUP_QUADS
    // Quads are four lanes in a row of a subgroup, wherever these have their places in the
    // workgroup.
    let lane = subgroup * subgroup_size + place;
#end
    let component = lane % LANES_EACH;
    let odd = component % 2u == 1u;
    let high = component >= 2u;
    #if ROTATED_CODES: let team = lane / LANES_EACH;

#for r in ROW_SETS
    let place$r = chunk * ROWS_HELD + SET_ROWS * $ru + $(row_of_set);
    // A lane without a row computes the last one and writes nothing.
    let safe$r = min(place$r, count - 1u);
    let row$r = rows.first_row + i32(safe$r / params.heads_each);
    let head$r = first_head + safe$r % params.heads_each;
    let own$r = visible_keys(sequence, row$r);
    #if MASKED: let mask_at$r = mask_row(sequence, params.first_head + head$r, row$r);
    #if POSITIONS: let position$r = query_position(sequence, row$r);
    #if SCORED: let slope$r = slope_of(sequence.slope_head + params.first_head + head$r);
    let q_at$r = sequence.q_base + head$r * params.q_head_stride + u32(row$r) * params.q_row_stride;
#if ROTATED_CODES
#insert attention/decode/own_queries
#else
#if ROPE
    var rotated_q$r: array<vec4<f32>, HEAD_QUADS>;
    for (var c = 0u; c < HEAD_QUADS; c++) {
        rotated_q$r[c] = rotated(load_quad(q[q_at$r + c]), load_quad(q[q_at$r + partner(c)]), position$r, c) * params.scale;
    }
    #for c in HEAD_QUADS: let q$r_$c = pick(rotated_q$r[$c], odd, high);
#else
    #for c in HEAD_QUADS: let q$r_$c = pick(load_quad(q[q_at$r + $cu]), odd, high) * params.scale;
#end
    #for c in VALUE_QUADS: var o$r_$c = 0.0;
#end
    var maximum$r = LOWEST;
    var sum$r = 0.0;
#end
#if CACHED
    let kv_head = first_head / params.heads_per_kv;
    let key_base = sequence.k_base + kv_head * cache.key_head_stride;
    let value_base = sequence.v_base + kv_head * cache.value_head_stride;
#for r in ROW_SETS
    #for g in VALUE_GROUPS: var low$r_$g = 0.0;  // Σ p·min of a group of value channels
#end
#if ROTATED_CODES
    // Whether q and o are those of rotated channels.
    var turned_queries = false;
    var turned_outputs = false;
#end
#else
    let k_base = sequence.k_base + first_head / params.heads_per_kv * params.k_head_stride;
    let v_base = sequence.v_base + first_head / params.heads_per_kv * params.v_head_stride;
#end

    let list = block_list(sequence, tile, first_head, rows.any);
    let entries = max(list.end, list.first) - list.first;
    let split_end = list.first + entries * (split + 1u) / params.splits;
    for (var entry = list.first + entries * split / params.splits; entry < split_end; entry++) {
        let block = listed_block(sequence, list, entry, rows.any);
        #for r in ROW_SETS: var block_sum$r = 0.0;
#if CACHED
#if ROTATED_CODES
#insert attention/decode/walk_rotated
#else
        var next_key = max(block.keys.lo, 0);
        while next_key < block.keys.hi {
            let first = u32(next_key);
            let run = run_at(first, sequence.segments);
            let run_end = min(run.end, u32(block.keys.hi));
            next_key = i32(run_end);
            if run.keys.bits == 0u {
                continue; // dropped
            }
            let key_pack = key_base + run.keys.base;
            let value_pack = value_base + run.values.base;
            // CACHE_KEYS tokens at a time, of one group of keys each.
            var start = first / CACHE_KEYS * CACHE_KEYS;
            while start < run_end {
                let group_end = min(run_end, (start / cache.group + 1u) * cache.group);
                let in_group = start % cache.segment / cache.group;
                #for r in ROW_SETS: var base$r = 0.0;
#unless ROTATE_KEYS
                #for c in HEAD_QUADS: var step_$c = 0.0;
                if run.keys.bits != 16u {
                    // What the group's keys have in common: their smallest number, and the step
                    // between codes.
                    let words = key_pack + cache.segment * HEAD_WORDS * run.keys.bits + in_group * HEAD_PADDED;
                    let reciprocal = 1.0 / f32((1u << run.keys.bits) - 1u);
#for c in HEAD_QUADS
                    {
                        let at = words + 4u * $cu;
                        let pair = f16_pair(pick_word(vec4<u32>(key_words[at], key_words[at + 1u], key_words[at + 2u], key_words[at + 3u]), odd, high));
                        step_$c = (pair.y - pair.x) * reciprocal;
                        #for r in ROW_SETS: base$r += q$r_$c * pair.x;
                    }
#end
                }
#end
                for (; start < group_end; start += CACHE_KEYS) {
                    #for r in ROW_SETS: var s$r = vec4<f32>(base$r);
#if ROTATE_KEYS
                    // Keys as they were before rotation: expanded and rotated, quad by quad.
                    for (var c = 0u; c < HEAD_QUADS; c++) {
                        let own = key_quads(run.keys, first, start, key_base, c);
                        let other = key_quads(run.keys, first, start, key_base, partner(c));
                        let rotated_keys = vec4<f32>(
                            pick(rotated(own.x, other.x, key_position(sequence, i32(start)), c), odd, high),
                            pick(rotated(own.y, other.y, key_position(sequence, i32(min(start + 1u, run_end - 1u))), c), odd, high),
                            pick(rotated(own.z, other.z, key_position(sequence, i32(min(start + 2u, run_end - 1u))), c), odd, high),
                            pick(rotated(own.w, other.w, key_position(sequence, i32(min(start + 3u, run_end - 1u))), c), odd, high),
                        );
                        #for r in ROW_SETS: s$r += pick(rotated_q$r[c], odd, high) * rotated_keys;
                    }
#else
                    // Sinks and the residual have 16 bits, whatever the ladder.
                    if run.keys.bits == 16u {
#insert attention/decode/each_token with body = attention/decode/key_row
#for bits in KEY_WIDTHS
                    } else if run.keys.bits == $(bits)u {
#insert attention/decode/key_codes with words = $(GROUP/32*bits)u
#end KEY_WIDTHS
                    }
#end
                    let token = vec4<i32>(i32(start)) + vec4<i32>(0, 1, 2, 3);
#insert attention/decode/weigh
                    // What isn't seen has p = 0, and a cache holds finite numbers only.
                    if run.values.bits == 16u {
#insert attention/decode/each_token with body = attention/decode/value_row
#for bits in VALUE_WIDTHS
                    } else if run.values.bits == $(bits)u {
#insert attention/decode/each_token with body = attention/decode/value_codes
#end VALUE_WIDTHS
                    }
                }
            }
        }
#end ROTATED_CODES
#else
        for (var j = block.keys.lo; j < block.keys.hi; j++) {
#if PAGED
            let k_at = k_base + paged_key(sequence, u32(j));
            let v_at = v_base + paged_value(sequence, u32(j));
#else
            let k_at = k_base + u32(j) * params.k_row_stride;
            let v_at = v_base + u32(j) * params.v_row_stride;
#end PAGED
            #for r in ROW_SETS: var s$r = 0.0;
            #if POSITIONS: let at = key_position(sequence, j);
#for c in HEAD_QUADS
            {
#if ROTATE_KEYS
                let key = pick(rotated(load_quad(k[k_at + $cu]), load_quad(k[k_at + partner($cu)]), at, $cu), odd, high);
#else
                let key = pick(load_quad(k[k_at + $cu]), odd, high);
#end
                #for r in ROW_SETS: s$r += q$r_$c * key;
            }
#end
#if SUBGROUP_QUADS
#for r in ROW_SETS
            s$r += quadSwapX(s$r);
            s$r += quadSwapY(s$r);
#end
#else
            #for r in ROW_SETS: parts[$ru * INVOCATIONS + lane].x = s$r;
            workgroupBarrier();
#for r in ROW_SETS
            s$r = parts[$ru * INVOCATIONS + lane - component].x + parts[$ru * INVOCATIONS + lane - component + 1u].x
                + parts[$ru * INVOCATIONS + lane - component + 2u].x + parts[$ru * INVOCATIONS + lane - component + 3u].x;
#end
            workgroupBarrier();
#end
            let everybody = j >= rows.all.lo && j < rows.all.hi;
#for r in ROW_SETS
            let seen$r = everybody || (j >= own$r.lo && j < own$r.hi);
#if SCORED
            let lag$r = position$r - at;
            s$r = positioned(capped(s$r), lag$r, phi_of(lag$r), slope$r);
#else
            s$r = capped(s$r);
#end
            s$r -= block.bias;
            #if MASKED: s$r += masked_by(sequence, mask_at$r, j);
            s$r = select(LOWEST, s$r, seen$r);
            let raised$r = max(maximum$r, s$r);
            let shrink$r = exp2(2.0 * (maximum$r - raised$r));
            maximum$r = raised$r;
            let p$r = select(0.0, exp2(2.0 * (s$r - raised$r)), seen$r);
            sum$r *= shrink$r;
            block_sum$r = block_sum$r * shrink$r + p$r;
#end
            if everybody {
#for c in VALUE_QUADS
                {
                    let value = pick(load_quad(v[v_at + $cu]), odd, high);
                    #for r in ROW_SETS: o$r_$c = o$r_$c * shrink$r + p$r * value;
                }
#end
            } else {
                // What a row doesn't see is selected away, never multiplied by zero: it may be
                // anything.
#for c in VALUE_QUADS
                {
                    let value = pick(load_quad(v[v_at + $cu]), odd, high);
                    #for r in ROW_SETS: o$r_$c = o$r_$c * shrink$r + select(0.0, p$r * value, seen$r);
                }
#end
            }
        }
#end
        #for r in ROW_SETS: sum$r += block_sum$r;
    }

#if ROTATED_CODES
    if turned_outputs {
#insert attention/decode/turn_outputs
    }
#end
#for r in ROW_SETS
#if ROTATED_CODES
#insert attention/decode/join_teams
#else
    if place$r < count {
        let state$r = ((work.sequence * params.max_rows + u32(row$r)) * params.all_heads + params.first_head + head$r) * params.splits + split;
        let at$r = 4u * STATE_QUADS * state$r;
#for c in VALUE_QUADS
#if GROUP
        states[at$r + 4u * $cu + component] = o$r_$c + low$r_$(c*4/GROUP);
#else
        states[at$r + 4u * $cu + component] = o$r_$c;
#end
#end
        if component < 2u {
            states[at$r + 4u * VALUE_QUADS + component] = select(maximum$r, sum$r, component == 1u);
        }
    }
#end
#end
}
