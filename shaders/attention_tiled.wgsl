// attention_tiled: FlashAttention in registers. The same function as attention_naive, which explains it.
//
//   s(i, j) = ⟨qᵢ, kⱼ⟩·scale − β·ln p(d), KEYS keys at a time; then with m' = max(m, s₁ … s_KEYS), in powers of two,
//   l' = l·2^(m−m') + Σ 2^(s−m')      o' = o·2^(m−m') + Σ 2^(s−m')·v
//
// Shapes      as attention_naive
// Workgroups  one per (sequence, row tile, head), late tiles first. A tile is INVOCATIONS × ROWS_EACH rows of one query block:
//             invocation `lane` has the rows lane, lane + INVOCATIONS, …
// Registers   q and o of ROWS_EACH rows, and ROWS_EACH × KEYS scores, all named: no array, so nothing is indexed at run time. The
//             loops marked # are written out by Rust (src/gpu/template.rs).
// Masks       a step of KEYS keys that every row sees is computed without one; only the others (the diagonal, a window's or a
//             document's edge, the ragged end) look at each element.
// Barriers    with staging, two per step, in the list's loop: its bounds depend on the workgroup alone.

#if STAGED
// KEYS rows of K and of V, shared by the workgroup; read at constant indices.
var<workgroup> k_tile: array<vec4<f32>, KEYS * HEAD_QUADS>;
var<workgroup> v_tile: array<vec4<f32>, KEYS * VALUE_QUADS>;
#end

// The rest of a score, in powers of two, once the inner product is known.
fn finish_score(product: f32, bias: f32) -> f32 {
    var score = product;
    if (params.flags & FLAG_SOFT_CAP) != 0u {
        // Beyond ±15 tanh is ±1 in f32, and some implementations of it overflow.
        score = params.soft_cap * tanh(clamp(score, -15.0, 15.0));
    }
    return score - bias;
}

@compute @workgroup_size(INVOCATIONS)
fn attention_tiled(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let work = work_item(workgroup, workgroups);
    if !work.exists {
        return;
    }
    let head = work.head;
    let tile = work.tile;
    let sequence = sequences[work.sequence];
    if tile / params.tiles_per_block >= sequence.query_blocks {
        return; // this sequence is shorter than the longest
    }

    let rows = row_tile(sequence, tile);
    let first = rows.first_position - (i32(sequence.kv_len) - i32(sequence.q_len));
#for r in ROWS_EACH
    let row$r = first + i32(lane + $ru * INVOCATIONS);
    let has_row$r = row$r >= rows.first_row && row$r <= rows.last_row;
    // A lane without a row computes row 0, sees nothing and writes nothing.
    let safe_row$r = select(0, row$r, has_row$r);
    var own$r = Visible(0, 0);
    if has_row$r {
        own$r = visible_keys(sequence, row$r);
    }
    let q_at$r = sequence.q_base + head * params.q_head_stride + u32(safe_row$r) * params.q_row_stride;
#for c in HEAD_QUADS
    let q$r_$c = load_quad(q[q_at$r + $cu]) * params.scale;
#end
#for c in VALUE_QUADS
    var o$r_$c = vec4<f32>(0.0);
#end
    var maximum$r = LOWEST;
    var sum$r = 0.0;
#end
    let kv_head = head / params.heads_per_kv;
    let k_base = sequence.k_base + kv_head * params.k_head_stride;
    let v_base = sequence.v_base + kv_head * params.v_head_stride;

    let list = block_list(sequence, tile, head, rows.any);
    for (var entry = list.first; entry < list.end; entry++) {
        let block = listed_block(sequence, list, entry, rows.any);
        let end_key = block.keys.hi;
        // The denominator is summed block by block: sums of a few numbers of like size lose fewer bits than one long sum. (The numerator would
        // need twice the registers for that.)
#for r in ROWS_EACH
        var block_sum$r = 0.0;
#end
        for (var j = block.keys.lo; j < end_key; j += i32(KEYS)) {
#if STAGED
            workgroupBarrier();
            for (var i = lane; i < KEYS * HEAD_QUADS; i += INVOCATIONS) {
                let key = u32(min(j + i32(i / HEAD_QUADS), end_key - 1));
                k_tile[i] = load_quad(k[k_base + key * params.k_row_stride + i % HEAD_QUADS]);
            }
            for (var i = lane; i < KEYS * VALUE_QUADS; i += INVOCATIONS) {
                let key = u32(min(j + i32(i / VALUE_QUADS), end_key - 1));
                v_tile[i] = load_quad(v[v_base + key * params.v_row_stride + i % VALUE_QUADS]);
            }
            workgroupBarrier();
#else
#for t in KEYS
            let key$t = u32(min(j + $t, end_key - 1));
            let k_at$t = k_base + key$t * params.k_row_stride;
            let v_at$t = v_base + key$t * params.v_row_stride;
#end
#end

#for r in ROWS_EACH
#for t in KEYS
            var s$r_$t = 0.0;
#end
#end
#for c in HEAD_QUADS
#for t in KEYS
#if STAGED
            let key$t_$c = k_tile[$tu * HEAD_QUADS + $cu];
#else
            let key$t_$c = load_quad(k[k_at$t + $cu]);
#end
#for r in ROWS_EACH
            s$r_$t += dot(q$r_$c, key$t_$c);
#end
#end
#end
#for r in ROWS_EACH
#for t in KEYS
            s$r_$t = finish_score(s$r_$t, block.bias);
#end
#end

            if j >= rows.all.lo && j + i32(KEYS) <= min(rows.all.hi, end_key) {
                // Every row sees every key of this step.
#for r in ROWS_EACH
                var raised$r = maximum$r;
#for t in KEYS
                raised$r = max(raised$r, s$r_$t);
#end
                let shrink$r = exp2(maximum$r - raised$r);
                maximum$r = raised$r;
                sum$r *= shrink$r;
                block_sum$r *= shrink$r;
#for t in KEYS
                let p$r_$t = exp2(s$r_$t - raised$r);
                block_sum$r += p$r_$t;
#end
#end
#for c in VALUE_QUADS
#for r in ROWS_EACH
                var part$r_$c = vec4<f32>(0.0);
#end
#for t in KEYS
#if STAGED
                let value$t_$c = v_tile[$tu * VALUE_QUADS + $cu];
#else
                let value$t_$c = load_quad(v[v_at$t + $cu]);
#end
#for r in ROWS_EACH
                part$r_$c += p$r_$t * value$t_$c;
#end
#end
#for r in ROWS_EACH
                o$r_$c = o$r_$c * shrink$r + part$r_$c;
#end
#end
            } else {
                // Each row sees what it sees, one key at a time. The rest is selected away, never multiplied by zero: it may be anything.
                for (var t = 0; t < min(i32(KEYS), end_key - j); t++) {
#if STAGED
                    let v_at = u32(t) * VALUE_QUADS;
#else
                    let v_at = v_base + u32(j + t) * params.v_row_stride;
#end
#for r in ROWS_EACH
                    let seen$r = j + t >= own$r.lo && j + t < own$r.hi;
                    var s$r = s$r_0;
#for t in KEYS
                    s$r = select(s$r, s$r_$t, t == $t);
#end
                    let raised$r = select(maximum$r, max(maximum$r, s$r), seen$r);
                    let shrink$r = exp2(maximum$r - raised$r);
                    let p$r = select(0.0, exp2(s$r - raised$r), seen$r);
                    sum$r *= shrink$r;
                    block_sum$r = block_sum$r * shrink$r + p$r;
                    maximum$r = raised$r;
#end
#for c in VALUE_QUADS
#if STAGED
                    let value_$c = v_tile[v_at + $cu];
#else
                    let value_$c = load_quad(v[v_at + $cu]);
#end
#for r in ROWS_EACH
                    o$r_$c = o$r_$c * shrink$r + select(vec4<f32>(0.0), p$r * value_$c, seen$r);
#end
#end
                }
            }
        }
#for r in ROWS_EACH
        sum$r += block_sum$r;
#end
    }

#for r in ROWS_EACH
    if has_row$r {
        let normalizer = select(0.0, 1.0 / sum$r, sum$r > 0.0);
        let o_at = sequence.o_base + head * params.o_head_stride + u32(row$r) * params.o_row_stride;
#for c in VALUE_QUADS
        output[o_at + $cu] = store_quad(o$r_$c * normalizer);
#end
        if (params.flags & FLAG_LSE) != 0u {
            let at = sequence.lse_base + head * params.lse_head_stride + u32(row$r);
            let value = bitcast<u32>((maximum$r + log2(sum$r)) * LN_2);
            lse[at] = select(NEGATIVE_INFINITY_BITS, value, sum$r > 0.0);
        }
    }
#end
}
