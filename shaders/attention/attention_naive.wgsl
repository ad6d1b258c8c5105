// attention_naive: one query row per invocation. The documentation of every other attention kernel.
//
//   s(i, j) = a(Δ)·cap·tanh(⟨R_i qᵢ, R_j kⱼ⟩·scale / cap) − λ·m_h·c(Δ)·φ(Δ) − β·ln p(d) + M_h(i, j)
//   o(i) = Σⱼ e^s(i,j)·vⱼ / (e^z_h + Σⱼ e^s(i,j))      LSE(i) = ln(e^z_h + Σⱼ e^s(i,j))
//
// over the visible keys j of the kept key blocks, with a sink z_h of the head if there are any
// (row_end.wgsl). Sources: PrFlashAttention (arXiv 2410.18441), on
// the online softmax of Milakov and Gimelshein 2018 (arXiv 1805.02867): with a running maximum m,
// sum l and numerator o,
//
//   m' = max(m, s)     l' = l·e^(m−m') + e^(s−m')     o' = o·e^(m−m') + e^(s−m')·v
//
// Shapes      q (batch, H, q_len, D) · k (batch, H_kv, kv_len, D) · v (batch, H_kv, kv_len, D_v) ·
//             output (batch, H, q_len, D_v) lse (batch, H, q_len), natural logarithm, as bits
// Rows        that see no key, or none with a score above −∞, have output 0 and log-sum-exp −∞ (or
//             the sink); those that see a score that is NaN or +∞ have NaN for both (ending.wgsl). Values that
//             aren't finite spoil their channel of the rows that see them, whatever their weights:
//             0·∞ is NaN.
// Workgroups  one per (sequence, row tile, head), numbered in one line and folded into x and y past
//             the limit of one dimension; late tiles first, since causal rows grow longer. A tile
//             is up to ROWS rows of *one* query block, so that all its rows walk the same block
//             list and the loads of K and V are at uniform addresses.
// Barriers    none. Loop bounds depend on the workgroup alone; only the element mask depends on the
//             row.
//
// Dense attention walks the blocks 0, 1, 2 … through the very same loop as a list, so a dense
// schedule gives the same bits.

#import shared/load_$(STORAGE)
#import attention/tensors
#import attention/work
#import attention/walk
#import attention/scores
#import attention/row_end
#if MASKED: #import attention/mask
#if PAGED: #import attention/pages
#if POSITIONS: #import attention/positions

// The online softmax over the keys seen so far: running maximum, Σ e^(s − maximum), and Σ e^(s −
// maximum)·v.
struct State {
    maximum: f32,
    sum: f32,
    numerator: array<vec4<f32>, VALUE_QUADS>,
}

@compute @workgroup_size(ROWS)
fn attention_naive(
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
    let row = rows.first_position + i32(lane) - (i32(sequence.kv_len) - i32(sequence.q_len));
    let has_row = row >= rows.first_row && row <= rows.last_row;
    var own = Visible(0, 0);
    var query: array<vec4<f32>, HEAD_QUADS>;
    #if POSITIONS: var position = 0;
    #if MASKED: let mask_at = mask_row(sequence, params.first_head + head, select(0, row, has_row));
    #if SCORED: let slope = slope_of(sequence.slope_head + params.first_head + head);
    if has_row {
        own = visible_keys(sequence, row);
        let q_at = sequence.q_base + head * params.q_head_stride + u32(row) * params.q_row_stride;
        #if POSITIONS: position = query_position(sequence, row);
        for (var c = 0u; c < HEAD_QUADS; c++) {
#if ROPE
            let rotated_quad = rotated(load_quad(q[q_at + c]), load_quad(q[q_at + partner(c)]), position, c);
#else
            let rotated_quad = load_quad(q[q_at + c]);
#end
            // Scaled before the inner product, so that large activations don't overflow.
            query[c] = rotated_quad * params.scale;
        }
    }
    let kv_head = head / params.heads_per_kv;
    let k_base = sequence.k_base + kv_head * params.k_head_stride;
    let v_base = sequence.v_base + kv_head * params.v_head_stride;

    // Two levels of the same recurrence: each block has a state of its own, which is then merged
    // into the row's. Sums of a few numbers of like size lose fewer bits than one long sum, by
    // about the square root of the block count.
    var row_state = State(LOWEST, 0.0, array<vec4<f32>, VALUE_QUADS>());
    let list = block_list(sequence, tile, head, rows.any);
    for (var entry = list.first; entry < list.end; entry++) {
        let block = listed_block(sequence, list, entry, rows.any);
        var state = State(LOWEST, 0.0, array<vec4<f32>, VALUE_QUADS>());
        for (var j = block.keys.lo; j < block.keys.hi; j++) {
            #if PAGED: let k_at = k_base + paged_key(sequence, u32(j));
            #unless PAGED: let k_at = k_base + u32(j) * params.k_row_stride;
            var products = vec4<f32>(0.0);
            #if POSITIONS: let at = key_position(sequence, j);
            for (var c = 0u; c < HEAD_QUADS; c++) {
#if ROPE
                products += query[c] * rotated(load_quad(k[k_at + c]), load_quad(k[k_at + partner(c)]), at, c);
#else
                products += query[c] * load_quad(k[k_at + c]);
#end
            }
            var score = (products.x + products.y) + (products.z + products.w);
            score = capped(score);
            #if SCORED: score = positioned(score, position - at, phi_of(position - at), slope);
            score -= block.bias;
            #if MASKED: score += masked_by(sequence, mask_at, j);
            if j >= own.lo && j < own.hi {
                let maximum = max(state.maximum, score);
                let shrink = exp(state.maximum - maximum);
                let weight = exp(score - maximum);
                #if PAGED: let v_at = v_base + paged_value(sequence, u32(j));
                #unless PAGED: let v_at = v_base + u32(j) * params.v_row_stride;
                for (var c = 0u; c < VALUE_QUADS; c++) {
                    state.numerator[c] = state.numerator[c] * shrink + weight * load_quad(v[v_at + c]);
                }
                state.sum = state.sum * shrink + weight;
                state.maximum = maximum;
            }
        }
        let maximum = max(row_state.maximum, state.maximum);
        let keep = exp(row_state.maximum - maximum);
        let add = exp(state.maximum - maximum);
        for (var c = 0u; c < VALUE_QUADS; c++) {
            row_state.numerator[c] = row_state.numerator[c] * keep + state.numerator[c] * add;
        }
        row_state.sum = row_state.sum * keep + state.sum * add;
        row_state.maximum = maximum;
    }

    if has_row {
        let kind = row_kind(row_state.maximum, row_state.sum);
        let own_lse = row_state.maximum + log(row_state.sum);
        let end = row_end(kind, row_state.sum, own_lse, params.first_head + head);
        let o_at = sequence.o_base + head * params.o_head_stride + u32(row) * params.o_row_stride;
        for (var c = 0u; c < VALUE_QUADS; c++) {
            output[o_at + c] = store_quad(row_state.numerator[c] * end.normalizer);
        }
        if (params.flags & FLAG_LSE) != 0u {
            let at = sequence.lse_base + head * params.lse_head_stride + u32(row);
            lse[at] = end.lse;
        }
    }
}
