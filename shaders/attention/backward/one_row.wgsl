// One query row of a head for each invocation.

#import shared/line
#import attention/backward/axes

struct OneRow {
    exists: bool,
    head: u32,
    row: u32,
    sequence: u32,
}

fn one_row(workgroup: vec3<u32>, workgroups: vec3<u32>, lane: u32) -> OneRow {
    let index = params.first_item + place_in_line(workgroup, workgroups);
    let row = (index / params.heads) % params.tiles * ROWS + lane;
    let sequence = index / (params.heads * params.tiles);
    let exists = index < params.work_items && row < sequences[min(sequence, arrayLength(&sequences) - 1u)].q_len;
    return OneRow(exists, index % params.heads, row, sequence);
}
