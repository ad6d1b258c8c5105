// Where the tensors of the backward pass lie: of each its first quad (of the log-sum-exp and of its
// gradient, and of those of sinks and slopes: number), and what it is from one batch entry, head
// and row to the next.

#import attention/params

struct Axes {
    q: vec4<u32>,
    k: vec4<u32>,
    v: vec4<u32>,
    output: vec4<u32>,
    d_output: vec4<u32>,
    lse: vec4<u32>,
    d_lse: vec4<u32>,
    query_rows: vec4<u32>,
    dq: vec4<u32>,
    dk: vec4<u32>,
    dv: vec4<u32>,
    d_sinks: vec4<u32>,
    d_slopes: vec4<u32>,
}

@group(2) @binding(0) var<uniform> axes: Axes;

// A row of a sequence's queries, or of its keys, in a head of this dispatch.
fn query_at(axis: vec4<u32>, sequence: Sequence, head: u32, row: u32) -> u32 {
    return axis.x + sequence.entry * axis.y + head * axis.z + (sequence.q_start + row) * axis.w;
}

fn key_at(axis: vec4<u32>, sequence: Sequence, head: u32, row: u32) -> u32 {
    return axis.x + sequence.entry * axis.y + head * axis.z + (sequence.kv_start + row) * axis.w;
}
