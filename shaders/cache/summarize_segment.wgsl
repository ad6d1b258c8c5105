// summarize_segment: summaries of the keys of a segment that leaves the residual of a staircase
// cache: for each group of tokens and channel the mean and how far from it keys are, in 8 bits.
//
//   |k_tc − code_c·step| ≤ reach_c·step'   for every token t of the group
//
// in integers, which the host (src/sampling/content/packed.rs) computes alike.
//
// Shapes      input k (batch, H_kv, capacity, D), any strides · of each group D'/4 words of codes,
//             D'/4 words of reaches, two steps
// Moves       those of quantize and of rows that come to a pack, for keys alone, with the place of
//             the summaries in the pack as their destination
// Workgroups  one per (head, group): INVOCATIONS units each, a quad of channels a lane
// Barriers    those of shared/summary.wgsl: a workgroup has a group or none, whatever its stamp
//             says

#import cache/moves
#import cache/rows
#import shared/summary

// f16 bits of finite numbers as f32, without flushing the smallest.
fn exact(half: vec4<u32>) -> vec4<f32> {
    let biased = (half >> vec4<u32>(10u)) & vec4<u32>(31u);
    let hidden = select(vec4<u32>(0u), vec4<u32>(0x400u), biased != vec4<u32>(0u));
    let magnitude = vec4<f32>((half & vec4<u32>(0x3ffu)) | hidden);
    let unit = bitcast<vec4<f32>>((max(biased, vec4<u32>(1u)) + vec4<u32>(102u)) << vec4<u32>(23u));
    let x = magnitude * unit;
    return select(x, -x, (half & vec4<u32>(0x8000u)) != vec4<u32>(0u));
}

@compute @workgroup_size(INVOCATIONS)
fn summarize_segment(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let item = place_in_line(workgroup, workgroups);
    let place = item % params.tiles * INVOCATIONS;
    if item >= params.work_items || place >= params.units {
        return;
    }
    let own = moves[entry_of(place, params.moves)];
    let head = item / params.tiles;
    let group = (place - own.first) / INVOCATIONS;
    let quads = cache.key_row_words / 2u;
    var least = vec4<f32>(0.0);
    var largest = vec4<f32>(0.0);
    var sums = vec4<f32>(0.0);
    if lane < params.k_quads {
        let first_row = group * cache.summary_tokens;
        least = exact(row_quad(own, head, first_row, lane));
        largest = least;
        sums = least;
        for (var row = 1u; row < cache.summary_tokens; row++) {
            let key = exact(row_quad(own, head, first_row + row, lane));
            least = min(least, key);
            largest = max(largest, key);
            sums += key;
        }
    }
    let summary = summary_quad(lane, least, largest, sums, cache.summary_tokens);
    if !is_due(own, head) || lane >= quads {
        return;
    }
    let at = head_base(own.flags, head) + own.destination + group * (2u * quads + 2u);
    keys[at + lane] = summary.means;
    keys[at + quads + lane] = summary.reaches;
    if lane == 0u {
        keys[at + 2u * quads] = bitcast<u32>(summary.of_means);
        keys[at + 2u * quads + 1u] = bitcast<u32>(summary.of_reaches);
    }
}
