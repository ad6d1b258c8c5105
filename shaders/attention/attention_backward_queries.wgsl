// attention_backward_queries: queries as the scores of the backward pass see them, rotated and
// scaled, in f32, each in the row of `query_rows` that the other kernels of the pass read.
//
//   x(i) = R_i qᵢ·scale
//
// Shapes      q (batch, H, q_len, D) · query_rows (batch, H, q_len, D + D_v + 4), f32: x, then the
//             gradient of the output, and at last (L, δ, dz, dm) (attention_backward_delta, and
//             attention_backward_rows for dm)
// Workgroups  one per (sequence, ROWS rows, head), numbered in one line
// Barriers    none

#import shared/load_$(STORAGE)
#import attention/backward/one_row
#if POSITIONS: #import attention/positions

@group(2) @binding(1) var<storage, read> q: array<InputQuad>;
@group(2) @binding(2) var<storage, read_write> query_rows: array<vec4<f32>>;

@compute @workgroup_size(ROWS)
fn attention_backward_queries(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let own = one_row(workgroup, workgroups, lane);
    if !own.exists {
        return;
    }
    let sequence = sequences[own.sequence];
    let q_at = query_at(axes.q, sequence, own.head, own.row);
    let row_at = query_at(axes.query_rows, sequence, own.head, own.row);
    #if ROPE: let position = query_position(sequence, i32(own.row));
    for (var c = 0u; c < HEAD_QUADS; c++) {
#if ROPE
        query_rows[row_at + c] = params.scale * rotated(load_quad(q[q_at + c]), load_quad(q[q_at + partner(c)]), position, c);
#else
        query_rows[row_at + c] = params.scale * load_quad(q[q_at + c]);
#end
    }
}
