// migrate: the sequences of a staircase cache move to a larger arena, once.
//
//   new[to + i] = old[from + i]   for every span and head, if it wasn't done before
//
// Every encoder that is recorded after an arena grew brings this dispatch along, until one of them
// is known to have run: whichever comes first does the work, and clears `todo` behind it. So a
// dropped encoder takes nothing with it.
//
// Shapes      old (H, W) and new (H, W') words of keys or of values, H the heads that are bound ·
//             spans: from, to and words, from the start of a head
// Workgroups  one per (head, COPIES words of the line of all spans), numbered in one line and
//             folded into x and y
// Barriers    none: nobody reads what another invocation of the dispatch writes

#import shared/line
#import shared/search

struct MigrateParams {
    work_items: u32,  // workgroups with work
    tiles: u32,       // … per head
    words: u32,       // of all spans, per head
    spans: u32,
    old_stride: u32,  // words from one head to the next
    new_stride: u32,
}

struct MigrateSpan {
    first: u32,  // words of the spans before
    source: u32,
    destination: u32,
}

@group(0) @binding(0) var<uniform> params: MigrateParams;
@group(0) @binding(1) var<storage, read> spans: array<MigrateSpan>;
@group(0) @binding(2) var<storage, read> todo: array<u32>;
@group(0) @binding(3) var<storage, read> old: array<u32>;
@group(0) @binding(4) var<storage, read_write> new_words: array<u32>;

// Where a span begins, for shared/search.wgsl.
fn begins_at(index: u32) -> u32 {
    return spans[index].first;
}

@compute @workgroup_size(INVOCATIONS)
fn migrate(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let item = place_in_line(workgroup, workgroups);
    if item >= params.work_items || todo[0] == 0u {
        return;
    }
    let head = item / params.tiles;
    let tile = (item % params.tiles) * COPIES;
    for (var place = tile + lane; place < min(tile + COPIES, params.words); place += INVOCATIONS) {
        let span = spans[entry_of(place, params.spans)];
        let at = place - span.first;
        new_words[head * params.new_stride + span.destination + at] = old[head * params.old_stride + span.source + at];
    }
}
