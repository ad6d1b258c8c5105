// commit: the last dispatch of what changes sequences of a staircase cache. It writes the number of the change into the stamp of each sequence.
//
//   stamp = number   if the stamp was the one that the change expects, as for all its other dispatches
//
// Shapes      a stamp is one word of keys, in every head, before a sequence's region
// Moves       one per sequence, of one unit
// Workgroups  one per (head, INVOCATIONS of the line of all moves' units), numbered in one line and folded into x and y
// Barriers    none: each invocation has a stamp of its own

@compute @workgroup_size(INVOCATIONS)
fn commit(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let work = work_of(workgroup.y * workgroups.x + workgroup.x, lane);
    if !work.any {
        return;
    }
    let own = moves[work.own];
    if is_due(own, work.head) {
        keys[stamp_at(own, work.head)] = params.number;
    }
}
