// schedule_fill: the entries of every row, at the offsets that the passes before (schedule_count,
// schedule_scan) found.
//
//   row = the sinks 0 … sinks − 1, then the blocks that were drawn, ascending; each with ln p
//
// Entries past the capacity are left out, and offsets end there: a list is then too short, never
// wrong, and the total says so.
//
// Shapes      tables: per sequence rows + 1 offsets, then (key block, bits of ln p) pairs
// Workgroups  one per (sequence, chunk), one row per invocation, numbered in one line and folded
//             into x and y
// Barriers    none

#import sampling/schedule
#import sampling/draw_$(RULE)

@compute @workgroup_size(ROWS)
fn schedule_fill(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let item = place_in_line(workgroup, workgroups);
    if item >= params.work_items {
        return;
    }
    let sequence = sequences[item / params.chunks];
    let chunk = item % params.chunks;
    let index = chunk * ROWS + lane;
    if index >= row_count(sequence) {
        return;
    }
    let row = row_of(sequence, index);
    let begin = add_counts(tables[sequence.base + params.sums + chunk], tables[sequence.base + index]);
    // No other invocation reads this word in this pass.
    tables[sequence.base + index] = min(begin, params.capacity);
    for (var block = 0; block < row.sinks; block++) {
        put(row, begin + u32(block), block, 0u);
    }
    fill_drawn(row, begin + u32(row.sinks));
}
