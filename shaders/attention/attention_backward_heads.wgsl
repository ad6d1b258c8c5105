// attention_backward_heads: the gradients of what each query head has of its own, sink and slope.
//
//   dz_h = Σᵢ dz(i)          dm_h = Σᵢ dm(i)
//
// over the query rows i of all sequences, whose parts attention_backward_delta and
// attention_backward_rows have left at the end of query_rows.
//
// Shapes      query_rows as attention_backward_queries · d_sinks and d_slopes (H), of all heads of
//             the call
// Workgroups  one per head of this dispatch. The line of work is sequences × heads, so that its end
//             says how many sequences there are
// Order       a lane adds every ROWS-th row of each sequence, RUN of them before they join the
//             rest, so that rounding grows with the length of a run more than with that of the sequence;
//             lanes then add by halves. The order depends on nothing but lengths.
// Shards      come one after the other: the first one of a head writes, others add to what is there
// Barriers    in loops with constant bounds, and before them; a workgroup leaves as a whole

#import shared/line
#import attention/backward/axes

@group(2) @binding(1) var<storage, read> query_rows: array<vec4<f32>>;
@group(2) @binding(2) var<storage, read_write> d_sinks: array<f32>;
@group(2) @binding(3) var<storage, read_write> d_slopes: array<f32>;

const RUN: u32 = 32u;

// (dz, dm) of each lane.
var<workgroup> sums: array<vec2<f32>, ROWS>;

@compute @workgroup_size(ROWS)
fn attention_backward_heads(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let head = place_in_line(workgroup, workgroups);
    if head >= params.heads {
        return;
    }
    var sum = vec2<f32>(0.0);
    for (var n = 0u; n < params.work_items / params.heads; n++) {
        let sequence = sequences[n];
        let ends = query_at(axes.query_rows, sequence, head, 0u) + HEAD_QUADS + VALUE_QUADS;
        for (var first = lane; first < sequence.q_len; first += RUN * ROWS) {
            let end = min(first + RUN * ROWS, sequence.q_len);
            var part = vec2<f32>(0.0);
            for (var row = first; row < end; row += ROWS) {
                part += query_rows[ends + row * axes.query_rows.w].zw;
            }
            sum += part;
        }
    }
    sums[lane] = sum;
    workgroupBarrier();
    for (var half = ROWS / 2u; half > 0u; half /= 2u) {
        if lane < half {
            sums[lane] += sums[lane + half];
        }
        workgroupBarrier();
    }
    if lane == 0u {
        let place = params.first_head + head;
        let sink_at = axes.d_sinks.x + place * axes.d_sinks.z;
        let slope_at = axes.d_slopes.x + place * axes.d_slopes.z;
        let adds = (params.flags & FLAG_FIRST) == 0u;
        d_sinks[sink_at] = select(0.0, d_sinks[sink_at], adds) + sums[0].x;
        d_slopes[slope_at] = select(0.0, d_slopes[slope_at], adds) + sums[0].y;
    }
}
