// merge_splits: one row from the splits that attention_decode has computed. With M = max m over the
// splits, in powers of four,
//
//   O = Σ 4^(m−M)·o / Σ 4^(m−M)·l        LSE = (M + log₄ Σ 4^(m−M)·l)·ln 4
//
// and then beside the head's sink, if there are any: no split has seen it (row_end.wgsl).
// Splits that saw nothing have l = 0; one that saw a NaN has l = NaN, and so has the row
// (ending.wgsl).
//
// Shapes      states (rows × splits, D_v + 4), f32 · output (batch, H, q_len, D_v), any strides ·
//             lse (batch, H, q_len), bits
// Workgroups  a line of invocations, one per (sequence, row, head, quad), folded into x and y
// Barriers    none

#import shared/line
#import shared/store_$(OUTPUT)
#import attention/params
#import attention/row_end

@group(1) @binding(0) var<storage, read> states: array<vec4<f32>>;
@group(1) @binding(1) var<storage, read_write> output: array<OutputQuad>;
@group(1) @binding(2) var<storage, read_write> lse: array<u32>;

@compute @workgroup_size(ROWS)
fn merge_splits(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let item = place_in_line(workgroup, workgroups) * ROWS + lane;
    if item >= params.merge_items {
        return;
    }
    let quad = item % VALUE_QUADS;
    let head = item / VALUE_QUADS % params.heads_here;
    let row = item / (VALUE_QUADS * params.heads_here) % params.max_rows;
    let index = item / (VALUE_QUADS * params.heads_here * params.max_rows);
    let sequence = sequences[index];
    if row >= sequence.q_len {
        return;
    }
    let first = ((index * params.max_rows + row) * params.all_heads + params.first_head + head) * params.splits * STATE_QUADS;
    var highest = LOWEST;
    for (var split = 0u; split < params.splits; split++) {
        highest = max(highest, states[first + split * STATE_QUADS + VALUE_QUADS].x);
    }
    var sum = 0.0;
    var total = vec4<f32>(0.0);
    for (var split = 0u; split < params.splits; split++) {
        let at = first + split * STATE_QUADS;
        let state = states[at + VALUE_QUADS];
        let weight = exp2(2.0 * (state.x - highest));
        sum += weight * state.y;
        total += weight * states[at + quad];
    }
    let kind = row_kind(highest * LN_4, sum);
    let end = row_end(kind, sum, (highest + 0.5 * log2(sum)) * LN_4, params.first_head + head);
    let o_at = sequence.o_base + head * params.o_head_stride + row * params.o_row_stride;
    output[o_at + quad] = store_quad(total * end.normalizer);
    if quad == 0u && (params.flags & FLAG_LSE) != 0u {
        lse[sequence.lse_base + head * params.lse_head_stride + row] = end.lse;
    }
}
