// subword_losses: what short strings cost without a piece each, which says what a vocabulary loses
// with that piece.
//
//   least(s) = min over the cuts of s without the piece of Σ cost(u)
//
// Shapes      words (walk.wgsl): length, the piece and 1 (0 forbids none) · least: a cost a string
// Workgroups  and barriers as walk.wgsl has them

#import subword/walk

@group(0) @binding(3) var<storage, read_write> least: array<u32>;

@compute @workgroup_size(LANES)
fn subword_losses(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = place_in_line(workgroup, workgroups);
    if group >= params.groups {
        return;
    }
    let head = head_of(group, lane);
    least[group * LANES + lane] = walk(head, words[head], words[head + LANES], lane);
}
