// attention_backward_delta: what every pair of a query's row is compared with in the backward pass.
//
//   δ(i) = Σ_c do_ic·o_ic − dL(i)          dz(i) = −e^(z − L(i))·δ(i)
//
// with the gradients do of the output and dL of its log-sum-exp (0 where none is given), and the
// row's part dz in the gradient of its head's sink z (0 without one). The row's own log-sum-exp L
// and do go beside them, so that the other kernels bind one buffer instead of three.
//
// Shapes      output and d_output (batch, H, q_len, D_v) · lse and d_lse (batch, H, q_len), natural
//             logarithms · query_rows as attention_backward_queries
// Rows        that saw nothing have L = −∞. Their weights are 0, so L is the largest number here.
//             NaN stays, and makes every gradient that such a row has a part in NaN.
// Workgroups  one per (sequence, ROWS rows, head), numbered in one line
// Barriers    none

#import shared/load_$(OUTPUT)
#import attention/backward/one_row
#import attention/position_table

@group(2) @binding(1) var<storage, read> output: array<InputQuad>;
@group(2) @binding(2) var<storage, read> d_output: array<InputQuad>;
@group(2) @binding(3) var<storage, read> lse: array<u32>;
@group(2) @binding(4) var<storage, read> d_lse: array<f32>;
@group(2) @binding(5) var<storage, read_write> query_rows: array<vec4<f32>>;

@compute @workgroup_size(ROWS)
fn attention_backward_delta(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let own = one_row(workgroup, workgroups, lane);
    if !own.exists {
        return;
    }
    let sequence = sequences[own.sequence];
    let o_at = query_at(axes.output, sequence, own.head, own.row);
    let d_at = query_at(axes.d_output, sequence, own.head, own.row);
    let row_at = query_at(axes.query_rows, sequence, own.head, own.row) + HEAD_QUADS;
    var products = vec4<f32>(0.0);
    for (var c = 0u; c < VALUE_QUADS; c++) {
        let gradient = load_quad(d_output[d_at + c]);
        products += gradient * load_quad(output[o_at + c]);
        query_rows[row_at + c] = gradient;
    }
    var delta = (products.x + products.y) + (products.z + products.w);
    if (params.flags & FLAG_LSE) != 0u {
        delta -= d_lse[query_at(axes.d_lse, sequence, own.head, own.row)];
    }
    let bits = lse[query_at(axes.lse, sequence, own.head, own.row)];
    let whole = select(bitcast<f32>(bits) * params.score_unit, -LOWEST, bits == NEGATIVE_INFINITY_BITS);
    var d_sink = 0.0;
    if (params.flags & FLAG_SINKS) != 0u {
        let place = params.first_head + own.head;
        let sink = position_table[params.sink_base + place / 4u][place % 4u];
        d_sink = -exp(sink - bitcast<f32>(bits)) * delta;
    }
    query_rows[row_at + VALUE_QUADS] = vec4<f32>(whole, delta, d_sink, 0.0);
}
