// schedule_count: how many blocks each row of a schedule keeps, as offsets within its chunk of ROWS
// rows.
//
//   offset(r) = Σ n(r′) over the rows r′ < r of the chunk
//   sum(chunk) = Σ n(r) over its rows        n(r) = sinks + drawn
//
// The first of three passes (count, scan, fill) that draw the schedule that `Schedule::sample`
// draws, bit for bit: design §2.2.
//
// Shapes      tables: per sequence rows + 1 offsets, pairs, one sum per chunk; rows = list groups ×
//             query blocks
// Workgroups  one per (sequence, chunk), one row per invocation, numbered in one line and folded
//             into x and y
// Barriers    in scan_counts, which every lane of a workgroup reaches: only whole workgroups leave
//             before it

#import sampling/schedule
#import sampling/draw_$(RULE)

@compute @workgroup_size(ROWS)
fn schedule_count(
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
    var count = 0u;
    if index < row_count(sequence) {
        let row = row_of(sequence, index);
        count = add_counts(u32(row.sinks) + count_drawn(row), 0u);
    }
    let counts = scan_counts(lane, count);
    if index < row_count(sequence) {
        tables[sequence.base + index] = counts.x;
    }
    if lane == 0u {
        tables[sequence.base + params.sums + chunk] = counts.y;
    }
}
