// Which part of the tensors a workgroup computes.

#import shared/line
#import attention/params
#import attention/walk

// One row tile of one head of one sequence.
struct WorkItem {
    exists: bool,   // false past the end of the line of workgroups
    head: u32,      // among those of this dispatch
    tile: u32,
    sequence: u32,
}

// Heads run fastest, then tiles. Without a schedule's own order: late ones first, since causal rows
// grow longer and the longest should not still be running when all else is done; or, with
// FLAG_PAIRED, the last, the first, the second to last, the second …, for devices that divide
// workgroups among their threads beforehand, in runs of equal number: each run then has the same
// share of a triangle.
fn work_item(workgroup: vec3<u32>, workgroups: vec3<u32>) -> WorkItem {
    // Long work is cut into several dispatches, each with a line of its own.
    let index = params.first_item + place_in_line(workgroup, workgroups);
    let place = (index / params.heads) % params.tiles;
    let sequence = index / (params.heads * params.tiles);
    let exists = index < params.work_items;
    var tile = params.tiles - 1u - place;
    if (params.flags & FLAG_PAIRED) != 0u {
        tile = select(params.tiles - 1u - place / 2u, place / 2u, place % 2u == 1u);
    }
    if exists {
        let entry = sequences[sequence];
        let rank = place / params.tiles_per_block;
        if entry.order_base != NO_TABLE && rank < entry.query_blocks {
            let query_block = tables[entry.order_base + rank];
            tile = (query_block + 1u) * params.tiles_per_block - 1u - place % params.tiles_per_block;
        } else if entry.order_base != NO_TABLE {
            tile = place; // past the end of a sequence that is shorter than the longest
        }
    }
    return WorkItem(exists, index % params.heads, tile, sequence);
}
