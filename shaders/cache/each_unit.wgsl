// Kernels of which each invocation takes a unit of a move: the way there, and the entry point.

#import cache/moves

// The work of one invocation: a unit of a move, in one head.
struct Work {
    own: u32,    // which move
    head: u32,   // from the first of the dispatch
    unit: u32,   // of the move
    any: bool,
}

fn work_of(item: u32, lane: u32) -> Work {
    let place = (item % params.tiles) * INVOCATIONS + lane;
    if item >= params.work_items || place >= params.units {
        return Work(0u, 0u, 0u, false);
    }
    let own = entry_of(place, params.moves);
    return Work(own, item / params.tiles, place - moves[own].first, true);
}

// The entry point of each kernel that moves tokens, named after its file, which says in `take` what
// becomes of a unit of a move.
@compute @workgroup_size(INVOCATIONS)
fn $(ENTRY_POINT)(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let work = work_of(place_in_line(workgroup, workgroups), lane);
    if !work.any {
        return;
    }
    let own = moves[work.own];
    if is_due(own, work.head) {
        take(own, work.head, work.unit);
    }
}
