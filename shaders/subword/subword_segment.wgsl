// subword_segment: words of at most LONGEST bytes cut at the least cost, and how often each piece
// is used.
//
//   usage(u) += count(w)   for every piece u of the cut of every word w
//
// Shapes      words (walk.wgsl): length, low and high half of the count · usage: two halves a piece
//             · cuts: a number a word, bit j − 1 set where a piece ends at j
// Workgroups  and barriers as walk.wgsl has them
//
// Places without a word have a length of 0. The host has seen to it that no sum passes 64 bits.

#import subword/walk

@group(0) @binding(3) var<storage, read_write> usage: array<atomic<u32>>;
@group(0) @binding(4) var<storage, read_write> cuts: array<u32>;

// Two halves are added one by one: whoever makes the low one wrap carries.
fn add_usage(piece: u32, low: u32, high: u32) {
    let before = atomicAdd(&usage[2u * piece], low);
    let carry = select(0u, 1u, before + low < before);
    if high + carry != 0u {
        atomicAdd(&usage[2u * piece + 1u], high + carry);
    }
}

@compute @workgroup_size(LANES)
fn subword_segment(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = place_in_line(workgroup, workgroups);
    if group >= params.groups {
        return;
    }
    let head = head_of(group, lane);
    let length = words[head];
    walk(head, length, 0u, lane);
    let low = words[head + LANES];
    let high = words[head + 2u * LANES];
    var ends = 0u;
    var at = length;
    while at > 0u {
        let last = lasts[(at - 1u) * LANES + lane];
        ends |= 1u << (at - 1u);
        add_usage(last & ((1u << NUMBER_BITS) - 1u), low, high);
        at -= ((last >> NUMBER_BITS) & (MAX_PIECE - 1u)) + 1u;
    }
    cuts[group * LANES + lane] = ends;
}
