// schedule_scan: where the entries of each chunk of rows begin, and how many there are in all.
//
//   begin(chunk) = Σ sum(chunk′) over chunk′ < chunk        total = Σ sum(chunk)
//
// The second of three passes (schedule_count, schedule_fill). The sums become their own prefix
// sums, in place; each lane takes a strip of them.
//
// Shapes      tables: per sequence one sum per chunk; one total per sequence before all lists
// Workgroups  one per sequence
// Barriers    in scan_counts, which every lane reaches: only whole workgroups leave before it

#import sampling/schedule

@compute @workgroup_size(ROWS)
fn schedule_scan(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = place_in_line(workgroup, workgroups);
    if index >= params.sequences {
        return;
    }
    let sequence = sequences[index];
    let strip = (params.chunks + ROWS - 1u) / ROWS;
    let sums = sequence.base + params.sums;
    let first = min(lane * strip, params.chunks);
    let end = min(first + strip, params.chunks);
    var count = 0u;
    for (var chunk = first; chunk < end; chunk++) {
        count = add_counts(count, tables[sums + chunk]);
    }
    let counts = scan_counts(lane, count);
    var begin = counts.x;
    for (var chunk = first; chunk < end; chunk++) {
        let sum = tables[sums + chunk];
        tables[sums + chunk] = begin;
        begin = add_counts(begin, sum);
    }
    if lane == 0u {
        tables[index] = counts.y;
        // One past the end of the last row. What doesn't fit was left out.
        tables[sequence.base + row_count(sequence)] = min(counts.y, params.capacity);
    }
}
