// attention_matrix: FlashAttention on matrix units. The same function as attention_naive, which
// explains it, of f16 storage, with both products taken of f16 operands and added up in f32:
//
//   S = Q·Kᵀ                       64 rows × KEYS keys at a time
//   s(i, j) = a(Δ)·cap·tanh(S·scale / cap) − λ·m_h·c(Δ)·φ(Δ) − β·ln p(d), in powers of four
//   m' = max(m, s)      p = 2¹⁵·4^(s − m')      p̃ = p rounded to f16
//   l' = l·4^(m−m') + Σ p      w' = w·4^(m−m') + Σ p̃      o' = o·4^(m−m') + P̃·V
//
// Output o / w, LSE m·ln 4 + ln(2⁻¹⁵·l), and then beside the head's sink (row_end.wgsl). Dividing
// by the sum of what was multiplied keeps the weights of a row summing to 1, so rounding moves them
// but loses nothing. The 2¹⁵ puts the largest p there, within f16, and those that become subnormal
// there below 2⁻²⁹ of it.
//
// Shapes      as attention_naive; head and value dimension filled up with zeros to whole fragments
// Workgroups  one per (sequence, row tile, head), late tiles first. LANES_EACH lanes share a row of
//             the tile: each has a part of its scores, and of each chunk of its output.
// Fragments   EDGE × EDGE numbers of a matrix, held by a subgroup (fragments_*.wgsl). Subgroups may
//             have any size: they share out tasks of 2 × 2 output fragments by a loop from their
//             own number on, so each operand that is loaded is multiplied twice, and nothing of
//             them lives past its task. What runs on (m, l, w, o) is in lanes' registers, in f32.
// Memory      operands: Q, then a place for K or, when the scores are there, P̃ and CHUNK columns
//             of V. sums: S, then CHUNK columns of P̃·V.
// Masks       scores that a row doesn't see are selected away by its lanes. A masked key's p̃ is 0,
//             but 0·∞ isn't: in a step that not every row sees whole, values that aren't finite
//             stay out of the matrices, and rows that see them add them by themselves. Keys past
//             the end are zeros.
// Rotation    of queries and keys on their way into workgroup memory, where they are a quarter of
//             themselves, so that no rotation leaves f16.
// Barriers    three per step and two per chunk of it, in the list's loop: its bounds depend on the
//             workgroup alone. Loops over tasks have none inside.

#import shared/load_$(STORAGE)
#import attention/tensors
#import attention/work
#import attention/walk
#import attention/scores
#import attention/row_end
#if MASKED: #import attention/mask
#if POSITIONS: #import attention/positions
#if EMULATED
#import attention/fragments_emulated
#else
#import attention/fragments_cooperative
#end

// What the largest weight p is.
const WEIGHT_SCALE: f32 = 32768.0;
#if ROPE
// What queries and keys are multiplied by when they are rotated.
const ROTATED_SCALE: f32 = 0.25;
#end

#if PADDED
// Whether a value that isn't finite was kept out: only ever raised, so that who reads it late does
// needless work at worst. Where memory is short, rows look for themselves.
var<workgroup> spoiled: atomic<u32>;
#end

// Rounded to the 11 significant bits of f16, ties to even: WGSL leaves the rounding of
// pack2x16float open, and so there is nothing left to round (but of subnormal numbers). NaN stays
// one.
fn rounded(x: vec4<f32>) -> vec4<f32> {
    let bits = bitcast<vec4<u32>>(x);
    let magnitude = min(bits & vec4<u32>(0x7fffffffu), vec4<u32>(0x7fc00000u));
    let kept = (magnitude + vec4<u32>(0xfffu) + ((magnitude >> vec4<u32>(13u)) & vec4<u32>(1u))) & vec4<u32>(0x7fffe000u);
    return bitcast<vec4<f32>>(kept | (bits & vec4<u32>(0x80000000u)));
}

fn packed(x: vec4<f32>) -> vec2<u32> {
    return vec2<u32>(pack2x16float(x.xy), pack2x16float(x.zw));
}

// All bits set in those of four f16 numbers that aren't finite.
fn not_finite(quad: vec2<u32>) -> vec2<u32> {
    let low = (quad & vec2<u32>(0x7c00u)) == vec2<u32>(0x7c00u);
    let high = (quad & vec2<u32>(0x7c000000u)) == vec2<u32>(0x7c000000u);
    return select(vec2<u32>(0u), vec2<u32>(0xffffu), low) | select(vec2<u32>(0u), vec2<u32>(0xffff0000u), high);
}

// 2 × 2 fragments of S.
fn score_task(task: u32) {
    let across = KEYS / (2u * EDGE);
    let row = task / across * 2u * EDGE;
    let key = task % across * 2u * EDGE;
    var s00 = no_sum();
    var s01 = no_sum();
    var s10 = no_sum();
    var s11 = no_sum();
    for (var c = 0u; c < HEAD_PADDED; c += EDGE) {
        let q0 = load_left(row * HEAD_STRIDE + c, HEAD_STRIDE);
        let q1 = load_left((row + EDGE) * HEAD_STRIDE + c, HEAD_STRIDE);
        let k0 = load_right_turned(KEYS_AT + key * HEAD_STRIDE + c, HEAD_STRIDE);
        let k1 = load_right_turned(KEYS_AT + (key + EDGE) * HEAD_STRIDE + c, HEAD_STRIDE);
        s00 = multiply_add(q0, k0, s00);
        s01 = multiply_add(q0, k1, s01);
        s10 = multiply_add(q1, k0, s10);
        s11 = multiply_add(q1, k1, s11);
    }
    store_sum(s00, row * SUM_STRIDE + key);
    store_sum(s01, row * SUM_STRIDE + key + EDGE);
    store_sum(s10, (row + EDGE) * SUM_STRIDE + key);
    store_sum(s11, (row + EDGE) * SUM_STRIDE + key + EDGE);
}

// 2 × 2 fragments of P̃·V.
fn value_task(task: u32) {
    let across = CHUNK / (2u * EDGE);
    let row = task / across * 2u * EDGE;
    let column = task % across * 2u * EDGE;
    var o00 = no_sum();
    var o01 = no_sum();
    var o10 = no_sum();
    var o11 = no_sum();
    for (var t = 0u; t < KEYS; t += EDGE) {
        let p0 = load_left(WEIGHTS_AT + row * WEIGHT_STRIDE + t, WEIGHT_STRIDE);
        let p1 = load_left(WEIGHTS_AT + (row + EDGE) * WEIGHT_STRIDE + t, WEIGHT_STRIDE);
        let v0 = load_right(VALUES_AT + t * VALUE_STRIDE + column, VALUE_STRIDE);
        let v1 = load_right(VALUES_AT + t * VALUE_STRIDE + column + EDGE, VALUE_STRIDE);
        o00 = multiply_add(p0, v0, o00);
        o01 = multiply_add(p0, v1, o01);
        o10 = multiply_add(p1, v0, o10);
        o11 = multiply_add(p1, v1, o11);
    }
    store_sum(o00, row * SUM_STRIDE + column);
    store_sum(o01, row * SUM_STRIDE + column + EDGE);
    store_sum(o10, (row + EDGE) * SUM_STRIDE + column);
    store_sum(o11, (row + EDGE) * SUM_STRIDE + column + EDGE);
}

fn sum_quad(at: u32) -> vec4<f32> {
    return vec4<f32>(sums[at], sums[at + 1u], sums[at + 2u], sums[at + 3u]);
}

@compute @workgroup_size(INVOCATIONS)
fn attention_matrix(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
#unless EMULATED
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
#end
) {
#if EMULATED
    fragment_lane = lane;
    let subgroup = lane / SUBGROUP_LANES;
    let subgroups = INVOCATIONS / SUBGROUP_LANES;
#end
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
    let own_row = lane / LANES_EACH;
    let part = lane % LANES_EACH;
    let row = first + i32(own_row);
    let has_row = row >= rows.first_row && row <= rows.last_row;
    var own = Visible(0, 0);
    if has_row {
        own = visible_keys(sequence, row);
    }
    let kv_head = head / params.heads_per_kv;
    let q_base = sequence.q_base + head * params.q_head_stride;
    let k_base = sequence.k_base + kv_head * params.k_head_stride;
    let v_base = sequence.v_base + kv_head * params.v_head_stride;
#if POSITIONS
    // A lane without a row computes row 0, sees nothing and writes nothing.
    let position = query_position(sequence, select(0, row, has_row));
#end
    #if MASKED: let mask_at = mask_row(sequence, params.first_head + head, select(0, row, has_row));
    #if SCORED: let slope = slope_of(sequence.slope_head + params.first_head + head);
#if ROPE
    let scale = params.scale * (1.0 / (ROTATED_SCALE * ROTATED_SCALE));
#else
    let scale = params.scale;
#end

#if PADDED
    if lane == 0u {
        atomicStore(&spoiled, 0u);
    }
#end
    for (var i = lane; i < ROWS * (HEAD_PADDED / 4u); i += INVOCATIONS) {
        let c = i % (HEAD_PADDED / 4u);
        let query = first + i32(i / (HEAD_PADDED / 4u));
        var quad = vec2<u32>(0u);
        if query >= rows.first_row && query <= rows.last_row && c < HEAD_QUADS {
            let at = q_base + u32(query) * params.q_row_stride;
#if ROPE
            let rotated_quad = rotated(load_quad(q[at + c]), load_quad(q[at + partner(c)]), query_position(sequence, query), c);
            quad = packed(rounded(rotated_quad * ROTATED_SCALE));
#else
            quad = q[at + c];
#end
        }
        put_quad(i / (HEAD_PADDED / 4u) * HEAD_STRIDE + 4u * c, quad);
    }

    var maximum = LOWEST;
    // This lane's part of l and w; the parts are added at the end.
    var sum = 0.0;
    var weight = 0.0;
#for h in CHUNKS
    #for u in CHUNK_QUADS_EACH: var o$h_$u = vec4<f32>(0.0);
#end
    // Where this lane's part of a row begins.
    let scores_at = own_row * SUM_STRIDE + part * KEYS_EACH;
    let columns_at = own_row * SUM_STRIDE + part * CHUNK_QUADS_EACH * 4u;
    let weights_at = WEIGHTS_AT + own_row * WEIGHT_STRIDE;

    let list = block_list(sequence, tile, head, rows.any);
    for (var entry = list.first; entry < list.end; entry++) {
        let block = listed_block(sequence, list, entry, rows.any);
        let end_key = block.keys.hi;
        for (var j = block.keys.lo; j < end_key; j += i32(KEYS)) {
            for (var i = lane; i < KEYS * (HEAD_PADDED / 4u); i += INVOCATIONS) {
                let c = i % (HEAD_PADDED / 4u);
                let key = j + i32(i / (HEAD_PADDED / 4u));
                var quad = vec2<u32>(0u);
                if key < end_key && c < HEAD_QUADS {
                    let at = k_base + u32(key) * params.k_row_stride;
#if ROPE
                    let rotated_quad = rotated(load_quad(k[at + c]), load_quad(k[at + partner(c)]), key_position(sequence, key), c);
                    quad = packed(rounded(rotated_quad * ROTATED_SCALE));
#else
                    quad = k[at + c];
#end
                }
                put_quad(KEYS_AT + i / (HEAD_PADDED / 4u) * HEAD_STRIDE + 4u * c, quad);
            }
            workgroupBarrier();
            for (var task = subgroup; task < (ROWS / (2u * EDGE)) * (KEYS / (2u * EDGE)); task += subgroups) {
                score_task(task);
            }
            workgroupBarrier();

            // This lane's scores, and the largest of the row.
            let first_key = j + i32(part * KEYS_EACH);
            let end = min(own.hi, end_key);
            var top = LOWEST;
#for u in KEY_QUADS_EACH, t in 4
            let key$u_$t = first_key + 4 * $u + $t;
            let seen$u_$t = key$u_$t >= own.lo && key$u_$t < end;
#if SCORED
            let lag$u_$t = position - key_position(sequence, min(key$u_$t, end_key - 1));
            var s$u_$t = positioned(capped(sums[scores_at + 4u * $uu + $tu] * scale), lag$u_$t, phi_of(lag$u_$t), slope) - block.bias;
#else
            var s$u_$t = capped(sums[scores_at + 4u * $uu + $tu] * scale) - block.bias;
#end
            #if MASKED: s$u_$t += masked_by(sequence, mask_at, min(key$u_$t, end_key - 1));
            top = select(top, max(top, s$u_$t), seen$u_$t);
#end
            // Its own scores are read, so there is room.
            sums[scores_at] = top;
            workgroupBarrier();
            var raised = maximum;
            for (var other = 0u; other < LANES_EACH; other++) {
                raised = max(raised, sums[own_row * SUM_STRIDE + other * KEYS_EACH]);
            }
            let shrink = exp2(2.0 * (maximum - raised));
            maximum = raised;

            var step_sum = 0.0;
            var step_weight = 0.0;
#for u in KEY_QUADS_EACH
            // Times 2¹⁵ afterwards: added to the exponent, a compiler may add it to the maximum
            // first, which rounds where that is large, and then p may be past f16.
            let below$u = vec4<f32>(s$u_0, s$u_1, s$u_2, s$u_3) - raised;
            let p$u = select(vec4<f32>(0.0), exp2(2.0 * below$u) * WEIGHT_SCALE, vec4<bool>(seen$u_0, seen$u_1, seen$u_2, seen$u_3));
            let kept$u = rounded(p$u);
            step_sum += (p$u.x + p$u.y) + (p$u.z + p$u.w);
            step_weight += (kept$u.x + kept$u.y) + (kept$u.z + kept$u.w);
            put_quad(weights_at + part * KEYS_EACH + 4u * $uu, packed(kept$u));
#end
            sum = sum * shrink + step_sum;
            weight = weight * shrink + step_weight;

            // Whether some row doesn't see some key of this step; uniform over the workgroup, as
            // the loops are.
            let guarded = j < rows.all.lo || min(j + i32(KEYS), end_key) > rows.all.hi;
#for h in CHUNKS
            for (var i = lane; i < KEYS * (CHUNK / 4u); i += INVOCATIONS) {
                let key = j + i32(i / (CHUNK / 4u));
                let c = $hu * (CHUNK / 4u) + i % (CHUNK / 4u);
                var quad = vec2<u32>(0u);
                if key < end_key && c < VALUE_QUADS {
                    quad = v[v_base + u32(key) * params.v_row_stride + c];
                }
                if guarded {
                    let bad = not_finite(quad);
#if PADDED
                    if any(bad != vec2<u32>(0u)) {
                        atomicStore(&spoiled, 1u);
                    }
#end
                    quad &= ~bad;
                }
                put_quad(VALUES_AT + i / (CHUNK / 4u) * VALUE_STRIDE + 4u * (i % (CHUNK / 4u)), quad);
            }
            workgroupBarrier();
            for (var task = subgroup; task < (ROWS / (2u * EDGE)) * (CHUNK / (2u * EDGE)); task += subgroups) {
                value_task(task);
            }
            #for u in CHUNK_QUADS_EACH: o$h_$u *= shrink;
#if PADDED
            let look$h = guarded && atomicLoad(&spoiled) != 0u;
#else
            let look$h = guarded;
#end
            if look$h {
                for (var key = max(j, own.lo); key < min(j + i32(KEYS), end); key++) {
                    let p = half_at(weights_at + u32(key - j));
                    let v_at = v_base + u32(key) * params.v_row_stride + $hu * (CHUNK / 4u) + part * CHUNK_QUADS_EACH;
#for u in CHUNK_QUADS_EACH
                    if $hu * (CHUNK / 4u) + part * CHUNK_QUADS_EACH + $uu < VALUE_QUADS {
                        let quad = v[v_at + $uu];
                        let bad = not_finite(quad);
                        if any(bad != vec2<u32>(0u)) {
                            let own_bad = vec4<u32>(bad.x & 1u, bad.x >> 31u, bad.y & 1u, bad.y >> 31u) == vec4<u32>(1u);
                            o$h_$u += select(vec4<f32>(0.0), p * load_quad(quad), own_bad);
                        }
                    }
#end
                }
            }
            workgroupBarrier();
            #for u in CHUNK_QUADS_EACH: o$h_$u += sum_quad(columns_at + 4u * $uu);
#end
        }
    }

    // The parts of the row's sums; in the same order on each of its lanes, so that all have the
    // same.
    workgroupBarrier();
    sums[own_row * SUM_STRIDE + 2u * part] = sum;
    sums[own_row * SUM_STRIDE + 2u * part + 1u] = weight;
    workgroupBarrier();
    sum = 0.0;
    weight = 0.0;
    for (var other = 0u; other < LANES_EACH; other++) {
        sum += sums[own_row * SUM_STRIDE + 2u * other];
        weight += sums[own_row * SUM_STRIDE + 2u * other + 1u];
    }
    if has_row {
        let kind = row_kind(maximum * LN_4, sum);
        let own_lse = (maximum + 0.5 * log2(sum * (1.0 / WEIGHT_SCALE))) * LN_4;
        let end = row_end(kind, weight, own_lse, params.first_head + head);
        let o_at = sequence.o_base + head * params.o_head_stride + u32(row) * params.o_row_stride;
#for h in CHUNKS, u in CHUNK_QUADS_EACH
        if $hu * (CHUNK / 4u) + part * CHUNK_QUADS_EACH + $uu < VALUE_QUADS {
            output[o_at + $hu * (CHUNK / 4u) + part * CHUNK_QUADS_EACH + $uu] = store_quad(o$h_$u * end.normalizer);
        }
#end
        if (params.flags & FLAG_LSE) != 0u && part == 0u {
            let at = sequence.lse_base + head * params.lse_head_stride + u32(row);
            lse[at] = end.lse;
        }
    }
}
