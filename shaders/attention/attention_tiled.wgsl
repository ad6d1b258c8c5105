// attention_tiled: FlashAttention in registers. The same function as attention_naive, which
// explains it.
//
//   s(i, j) = a(Δ)·⟨R_i qᵢ, R_j kⱼ⟩·scale − λ·m_h·c(Δ)·φ(Δ) − β·ln p(d), KEYS keys at a time; then with m' = max(m, s₁ … s_KEYS), in powers of four,
//   l' = l·4^(m−m') + Σ 4^(s−m')      o' = o·4^(m−m') + Σ 4^(s−m')·v
//
// Powers of four, since scores in powers of two overflow before natural ones do. The factor of 2 in
// exponents is exact.
//
// Shapes      as attention_naive
// Workgroups  one per (sequence, row tile, head), late tiles first. A tile is ROW_LANES × ROWS_EACH
//             rows of one query block: invocation `lane` has the rows lane, lane + ROW_LANES, …
// Parts       where rows are too long for the registers, PARTS × ROW_LANES invocations share them:
//             each part has some channels of q, k, v and o, and the shares of the inner products
//             are added up through workgroup memory. The softmax is computed by every part.
// Registers   q and o of ROWS_EACH rows, and ROWS_EACH × KEYS scores, all named: no array, so
//             nothing is indexed at run time. The loops marked # are written out by Rust
//             (src/runtime/template.rs).
// Softmax     the maximum may stay behind the scores by up to RAISE_ABOVE before o is rescaled
//             (forms with one row an invocation): results are the same, and rescaling is rare.
// Masks       a step of KEYS keys that every row sees is computed without one; only the others (the
//             diagonal, a window's or a document's edge, the ragged end) look at each element.
// Rotation    of queries as they are loaded; of keys on their way through workgroup memory, once
//             per workgroup: a lane turns the same quads of every step, by the rotation of the
//             step's first key (from the table, or one product on from the step before) times that
//             of the key within the step, which stays in registers.
// Cache       a staircase cache is walked in runs of tokens that lie together (cache.wgsl), four
//             tokens at a time, expanded on their way through workgroup memory.
// Barriers    with staging two per step, with parts one, in the list's loop: its bounds depend on
//             the workgroup alone.
// Length      one file, though a long one: the forms (staged, direct, shared, with halves, over a
//             cache) differ by a few lines each, in the middle of the same loops.

#import attention/numbers_$(NUMBERS)
#import attention/tensors
#import attention/work
#import attention/walk
#import attention/scores
#import attention/ending
#if CACHED
#import attention/expand
#end
#if POSITIONS
#import attention/positions
#end

#if SHARED
// Shares of the inner products of a step, two steps in turn: [step % 2][part][row of a lane ×
// key][lane of a part].
var<workgroup> shares: array<f32, 2u * PARTS * ROWS_EACH * KEYS * ROW_LANES>;
#else
const own_head: u32 = 0u;
const own_value: u32 = 0u;
#end

#if STAGED
// KEYS rows of K and of V, shared by the workgroup; read at constant indices.
#if SHARED
// By parts, so that what a part reads has constant indices after the first.
var<workgroup> k_tile: array<array<Quad, KEYS * OWN_HEAD_QUADS>, PARTS>;
var<workgroup> v_tile: array<array<Quad, KEYS * OWN_VALUE_QUADS>, PARTS>;

fn stage_key(t: u32, c: u32, quad: Quad) {
    k_tile[c / OWN_HEAD_QUADS][t * OWN_HEAD_QUADS + c % OWN_HEAD_QUADS] = quad;
}

fn stage_value(t: u32, c: u32, quad: Quad) {
    v_tile[c / OWN_VALUE_QUADS][t * OWN_VALUE_QUADS + c % OWN_VALUE_QUADS] = quad;
}
#else
var<workgroup> k_tile: array<Quad, KEYS * HEAD_QUADS>;
var<workgroup> v_tile: array<Quad, KEYS * VALUE_QUADS>;

fn stage_key(t: u32, c: u32, quad: Quad) {
    k_tile[t * HEAD_QUADS + c] = quad;
}

fn stage_value(t: u32, c: u32, quad: Quad) {
    v_tile[t * VALUE_QUADS + c] = quad;
}
#end
#end

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

#if SHARED
#if STAGED
    let part = lane / ROW_LANES;
#else
    // Lanes of one part are whole subgroups. That it is the same for all of them is said here, so
    // that what they load at the same address is loaded once.
    let part = subgroupBroadcastFirst(lane / ROW_LANES);
#end
    let row_lane = lane % ROW_LANES;
    let own_head = part * OWN_HEAD_QUADS;
    let own_value = part * OWN_VALUE_QUADS;
    var half = 0u;
#else
    let row_lane = lane;
#end
    let rows = row_tile(sequence, tile);
    let first = rows.first_position - (i32(sequence.kv_len) - i32(sequence.q_len));
#for r in ROWS_EACH
    let row$r = first + i32(row_lane + $ru * ROW_LANES);
    let has_row$r = row$r >= rows.first_row && row$r <= rows.last_row;
    // A lane without a row computes row 0, sees nothing and writes nothing.
    let safe_row$r = select(0, row$r, has_row$r);
    var own$r = Visible(0, 0);
    if has_row$r {
        own$r = visible_keys(sequence, row$r);
    }
#if POSITIONS
    let position$r = query_position(sequence, safe_row$r);
#end
    let q_at$r = sequence.q_base + head * params.q_head_stride + u32(safe_row$r) * params.q_row_stride;
#if ROPE
    // In a loop, not written out: turned once, and what follows should be able to forget how.
    var turned$r: array<vec4<f32>, OWN_HEAD_QUADS>;
    for (var i = 0u; i < OWN_HEAD_QUADS; i++) {
        let c = own_head + i;
        turned$r[i] = rotated(load_quad(q[q_at$r + c]), load_quad(q[q_at$r + partner(c)]), position$r, c) * params.scale;
    }
#for c in OWN_HEAD_QUADS
    let q$r_$c = Quad(turned$r[$c]);
#end
#else
#for c in OWN_HEAD_QUADS
    let q$r_$c = Quad(load_quad(q[q_at$r + own_head + $cu]) * params.scale);
#end
#end
#for c in OWN_VALUE_QUADS
    var o$r_$c = vec4<f32>(0.0);
#end
    var maximum$r = LOWEST;
    var sum$r = 0.0;
#end
    let kv_head = head / params.heads_per_kv;
#if CACHED
    let k_base = sequence.k_base + kv_head * cache.key_head_stride;
    let v_base = sequence.v_base + kv_head * cache.value_head_stride;
#else
    let k_base = sequence.k_base + kv_head * params.k_head_stride;
    let v_base = sequence.v_base + kv_head * params.v_head_stride;
#unless STAGED
#if WIDE
    let k_first = (k_base + own_head) / BLOCK_QUADS;
    let v_first = (v_base + own_value) / BLOCK_QUADS;
    let k_stride = params.k_row_stride / BLOCK_QUADS;
    let v_stride = params.v_row_stride / BLOCK_QUADS;
#else
    let k_first = k_base + own_head;
    let v_first = v_base + own_value;
    let k_stride = params.k_row_stride;
    let v_stride = params.v_row_stride;
#end
#end
#end

#if SCORED
    let slope = slope_of(sequence.slope_head + params.first_head + head);
#end
#if TURN
    // What this lane turns: quads `turn_quad` of the keys from `turn_first` on, TURN_KEYS of each
    // step.
    let turn_quad = lane % TURN_QUADS;
    let turn_first = lane / TURN_QUADS * TURN_KEYS;
#for u in TURN_KEYS
#for h in TURN_PARTS
    let step$u_$h = position_table[params.rope_steps + ((turn_first + $uu) % KEYS) * ROTARY_QUADS + TURN_PARTS * turn_quad + $hu];
#end
#end
#for h in TURN_PARTS
    let leap$h = position_table[params.rope_steps + KEYS * ROTARY_QUADS + TURN_PARTS * turn_quad + $hu];
    var base$h = vec4<f32>(0.0);
#end
#end

    let list = block_list(sequence, tile, head, rows.any);
    for (var entry = list.first; entry < list.end; entry++) {
        let block = listed_block(sequence, list, entry, rows.any);
#unless CACHED
        let end_key = block.keys.hi;
#end
        // The denominator is summed block by block: sums of a few numbers of like size lose fewer
        // bits than one long sum. (The numerator would need twice the registers for that.)
#for r in ROWS_EACH
        var block_sum$r = 0.0;
#end
#if CACHED
        var next_key = max(block.keys.lo, 0);
        while next_key < block.keys.hi {
        let first_key = next_key;
        let run = run_at(u32(first_key), sequence.segments);
        let end_key = min(i32(run.end), block.keys.hi);
        next_key = end_key;
        if run.keys.bits == 0u {
            continue; // dropped
        }
        for (var j = first_key / 4 * 4; j < end_key; j += i32(KEYS)) {
#else
        for (var j = block.keys.lo; j < end_key; j += i32(KEYS)) {
#end
#if STAGED
            workgroupBarrier();
#if CACHED
            for (var c = lane; c < HEAD_QUADS; c += INVOCATIONS) {
                let own = key_quads(run.keys, u32(first_key), u32(j), k_base, c);
#if KEYS_TURN
                let other = key_quads(run.keys, u32(first_key), u32(j), k_base, partner(c));
                stage_key(0u, c, rotated(own.x, other.x, key_position(sequence, j), c));
                stage_key(1u, c, rotated(own.y, other.y, key_position(sequence, min(j + 1, end_key - 1)), c));
                stage_key(2u, c, rotated(own.z, other.z, key_position(sequence, min(j + 2, end_key - 1)), c));
                stage_key(3u, c, rotated(own.w, other.w, key_position(sequence, min(j + 3, end_key - 1)), c));
#else
                stage_key(0u, c, own.x);
                stage_key(1u, c, own.y);
                stage_key(2u, c, own.z);
                stage_key(3u, c, own.w);
#end
            }
            for (var i = lane; i < KEYS * VALUE_QUADS; i += INVOCATIONS) {
                stage_value(i / VALUE_QUADS, i % VALUE_QUADS, value_quad(run.values, u32(first_key), u32(j) + i / VALUE_QUADS, v_base, i % VALUE_QUADS));
            }
#else
#if TURN
            if lane < TURN_QUADS * KEYS / TURN_KEYS {
                let counted = sequence.id_base == NO_TABLE;
                // The rotation of the step's first key: from the table every fourth step, by one
                // more product for the steps between.
                if (j - block.keys.lo) % (4 * i32(KEYS)) == 0 {
#for h in TURN_PARTS
                    base$h = rotation(key_position(sequence, j), TURN_PARTS * turn_quad + $hu);
#end
                } else {
#for h in TURN_PARTS
                    base$h = turn(base$h, leap$h);
#end
                }
#for u in TURN_KEYS
                let key$u = min(j + i32(turn_first + $uu), end_key - 1);
                let k_at$u = k_base + u32(key$u) * params.k_row_stride + turn_quad;
#for h in TURN_PARTS
                var by$u_$h = turn(base$h, step$u_$h);
                if !counted {
                    by$u_$h = rotation(key_position(sequence, key$u), TURN_PARTS * turn_quad + $hu);
                }
#end
#if ROPE_HALF
                let x$u = load_quad(k[k_at$u]);
                let y$u = load_quad(k[k_at$u + HALF_QUADS]);
                let a$u = turn(vec4<f32>(x$u.x, y$u.x, x$u.y, y$u.y), by$u_0);
                let b$u = turn(vec4<f32>(x$u.z, y$u.z, x$u.w, y$u.w), by$u_1);
                stage_key(turn_first + $uu, turn_quad, Quad(vec4<f32>(a$u.xz, b$u.xz)));
                stage_key(turn_first + $uu, turn_quad + HALF_QUADS, Quad(vec4<f32>(a$u.yw, b$u.yw)));
#else
                stage_key(turn_first + $uu, turn_quad, Quad(turn(load_quad(k[k_at$u]), by$u_0)));
#end
#end
            }
#if PARTIAL
            for (var i = lane; i < KEYS * REST_QUADS; i += INVOCATIONS) {
                let key = u32(min(j + i32(i / REST_QUADS), end_key - 1));
                let c = ROTARY_QUADS + i % REST_QUADS;
                stage_key(i / REST_QUADS, c, load_own(k[k_base + key * params.k_row_stride + c]));
            }
#end
#else
            for (var i = lane; i < KEYS * HEAD_QUADS; i += INVOCATIONS) {
                let key = min(j + i32(i / HEAD_QUADS), end_key - 1);
                let c = i % HEAD_QUADS;
                let k_at = k_base + u32(key) * params.k_row_stride;
#if ROPE
                stage_key(i / HEAD_QUADS, c, Quad(rotated(load_quad(k[k_at + c]), load_quad(k[k_at + partner(c)]), key_position(sequence, key), c)));
#else
                stage_key(i / HEAD_QUADS, c, load_own(k[k_at + c]));
#end
            }
#end
            for (var i = lane; i < KEYS * VALUE_QUADS; i += INVOCATIONS) {
                let key = u32(min(j + i32(i / VALUE_QUADS), end_key - 1));
                stage_value(i / VALUE_QUADS, i % VALUE_QUADS, load_own(v[v_base + key * params.v_row_stride + i % VALUE_QUADS]));
            }
#end
            workgroupBarrier();
#else
#for t in KEYS
            let key$t = u32(min(j + $t, end_key - 1));
            let k_at$t = k_first + key$t * k_stride;
#end
#end

#for r in ROWS_EACH
#for t in KEYS
            var s$r_$t = 0.0;
#end
#end
#if BY_CHANNEL
#for r in ROWS_EACH
#for t in KEYS
#for g in SUMS
            var sums$r_$t_$g = Quad();
#end
#end
#end
#end
#for c in OWN_HEAD_QUADS
#for t in KEYS
#if STAGED
#if SHARED
            let key$t_$c = k_tile[part][$tu * OWN_HEAD_QUADS + $cu];
#else
            let key$t_$c = k_tile[$tu * HEAD_QUADS + $cu];
#end
#else
#if WIDE
            let key$t_$c = load_own(k[k_at$t + $(c/BLOCK_QUADS)u][$(c%BLOCK_QUADS)]);
#else
            let key$t_$c = load_own(k[k_at$t + $cu]);
#end
#end
#for r in ROWS_EACH
#if BY_CHANNEL
            sums$r_$t_$(c/SUM_QUADS) = fma(q$r_$c, key$t_$c, sums$r_$t_$(c/SUM_QUADS));
#else
            s$r_$t += dot(q$r_$c, key$t_$c);
#end
#end
#end
#end
#if BY_CHANNEL
#for r in ROWS_EACH
#for t in KEYS
#for g in SUMS
            s$r_$t += sum_of(sums$r_$t_$g);
#end
#end
#end
#end
#if SHARED
            // Every part adds all shares in the same order, so that all have the same scores to the
            // bit. While a step's are read, the next one writes the other half.
#for r in ROWS_EACH
#for t in KEYS
            shares[((half * PARTS + part) * ROWS_EACH * KEYS + $ru * KEYS + $tu) * ROW_LANES + row_lane] = s$r_$t;
#end
#end
            workgroupBarrier();
#for r in ROWS_EACH
#for t in KEYS
            s$r_$t = 0.0;
#for g in PARTS
            s$r_$t += shares[((half * PARTS + $gu) * ROWS_EACH * KEYS + $ru * KEYS + $tu) * ROW_LANES + row_lane];
#end
#end
#end
            half = 1u - half;
#end
#if SCORED
#for t in KEYS
            let at$t = key_position(sequence, min(j + $t, end_key - 1));
#end
#if WINDOWS
            let lags = lags_of(sequence, rows, j);
#end
#for r in ROWS_EACH
#if WINDOWS
#for t in KEYS
            var phi$r_$t: f32;
#end
            if lags == LAGS_FAR {
#for t in KEYS
                phi$r_$t = phi_far(position$r - at$t);
#end
            } else if lags == LAGS_NEAR {
#for w in WINDOWS
                let window$r_$w = phi_window(position$r - at0 - 4 * $w);
#end
#for t in KEYS
                phi$r_$t = window$r_$(t/4)[$(t%4)];
#end
            } else {
#for t in KEYS
                phi$r_$t = phi_of(position$r - at$t);
#end
            }
#else
#for t in KEYS
            let phi$r_$t = phi_of(position$r - at$t);
#end
#end
#end
#end
            if (params.flags & FLAG_SOFT_CAP) != 0u {
#for r in ROWS_EACH
#for t in KEYS
                s$r_$t = soft_capped(s$r_$t);
#end
#end
            }
#for r in ROWS_EACH
#for t in KEYS
#if SCORED
            s$r_$t = positioned(s$r_$t, position$r - at$t, phi$r_$t, slope) - block.bias;
#else
            s$r_$t -= block.bias;
#end
#end
#end

#if CACHED
            if j >= max(rows.all.lo, first_key) && j + i32(KEYS) <= min(rows.all.hi, end_key) {
#else
            if j >= rows.all.lo && j + i32(KEYS) <= min(rows.all.hi, end_key) {
#end
                // Every row sees every key of this step.
#for r in ROWS_EACH
                var raised$r = maximum$r;
#for t in KEYS
                raised$r = max(raised$r, s$r_$t);
#end
#if LAZY
                if raised$r > maximum$r + RAISE_ABOVE {
                    let shrink$r = exp2(2.0 * (maximum$r - raised$r));
                    maximum$r = raised$r;
                    sum$r *= shrink$r;
                    block_sum$r *= shrink$r;
#for c in OWN_VALUE_QUADS
                    o$r_$c *= shrink$r;
#end
                }
#else
                let shrink$r = exp2(2.0 * (maximum$r - raised$r));
                maximum$r = raised$r;
                sum$r *= shrink$r;
                block_sum$r *= shrink$r;
#end
#for t in KEYS
                let p$r_$t = exp2(2.0 * (s$r_$t - maximum$r));
                block_sum$r += p$r_$t;
                let weight$r_$t = Number(p$r_$t);
#end
#end
#unless STAGED
                // All of them exist: one row after the other.
                var v_next = v_first + u32(j) * v_stride;
#for t in KEYS
                let v_at$t = v_next;
                v_next += v_stride;
#end
#end
#for c in OWN_VALUE_QUADS
#if IN_PARTS
#for r in ROWS_EACH
                var part$r_$c = Quad();
#end
#end
#for t in KEYS
#if STAGED
#if SHARED
                let value$t_$c = v_tile[part][$tu * OWN_VALUE_QUADS + $cu];
#else
                let value$t_$c = v_tile[$tu * VALUE_QUADS + $cu];
#end
#else
#if WIDE
                let value$t_$c = load_own(v[v_at$t + $(c/BLOCK_QUADS)u][$(c%BLOCK_QUADS)]);
#else
                let value$t_$c = load_own(v[v_at$t + $cu]);
#end
#end
#for r in ROWS_EACH
#if IN_PARTS
                part$r_$c += weight$r_$t * value$t_$c;
#else
                o$r_$c = fma(Quad(weight$r_$t), value$t_$c, o$r_$c);
#end
#end
#end
#if IN_PARTS
#for r in ROWS_EACH
#if LAZY
                o$r_$c += vec4<f32>(part$r_$c);
#else
                o$r_$c = o$r_$c * shrink$r + vec4<f32>(part$r_$c);
#end
#end
#end
#end
            } else {
                // Each row sees what it sees, one key at a time. The rest is selected away, never
                // multiplied by zero: it may be anything.
                for (var t = 0; t < min(i32(KEYS), end_key - j); t++) {
#if STAGED
                    let v_at = u32(t) * OWN_VALUE_QUADS;
#else
                    let v_at = v_first + u32(j + t) * v_stride;
#end
#for r in ROWS_EACH
#if CACHED
                    let seen$r = j + t >= max(own$r.lo, first_key) && j + t < own$r.hi;
#else
                    let seen$r = j + t >= own$r.lo && j + t < own$r.hi;
#end
                    var s$r = s$r_0;
#for t in KEYS
                    s$r = select(s$r, s$r_$t, t == $t);
#end
                    let raised$r = select(maximum$r, max(maximum$r, s$r), seen$r);
                    let shrink$r = exp2(2.0 * (maximum$r - raised$r));
                    let p$r = select(0.0, exp2(2.0 * (s$r - raised$r)), seen$r);
                    sum$r *= shrink$r;
                    block_sum$r = block_sum$r * shrink$r + p$r;
                    maximum$r = raised$r;
#end
#for c in OWN_VALUE_QUADS
#if STAGED
#if SHARED
                    let value_$c = vec4<f32>(v_tile[part][v_at + $cu]);
#else
                    let value_$c = vec4<f32>(v_tile[v_at + $cu]);
#end
#else
#if WIDE
                    let value_$c = load_quad(v[v_at + $(c/BLOCK_QUADS)u][$(c%BLOCK_QUADS)]);
#else
                    let value_$c = load_quad(v[v_at + $cu]);
#end
#end
#for r in ROWS_EACH
                    o$r_$c = o$r_$c * shrink$r + select(vec4<f32>(0.0), p$r * value_$c, seen$r);
#end
#end
                }
            }
        }
#if CACHED
        }
#end
#for r in ROWS_EACH
        sum$r += block_sum$r;
#end
    }

#for r in ROWS_EACH
    if has_row$r {
        let kind = row_kind(maximum$r * LN_4, sum$r);
        let normalizer = row_normalizer(kind, sum$r);
        let o_at = sequence.o_base + head * params.o_head_stride + u32(row$r) * params.o_row_stride;
#for c in OWN_VALUE_QUADS
        output[o_at + own_value + $cu] = store_quad(o$r_$c * normalizer);
#end
#if SHARED
        let writes_lse = part == 0u && (params.flags & FLAG_LSE) != 0u;
#else
        let writes_lse = (params.flags & FLAG_LSE) != 0u;
#end
        if writes_lse {
            let at = sequence.lse_base + head * params.lse_head_stride + u32(row$r);
            lse[at] = row_lse(kind, (maximum$r + 0.5 * log2(sum$r)) * LN_4);
        }
    }
#end
}
