// block_missing: how much of a head's attention the blocks have that its list leaves out, for the
// first row that speaks for each query block.
//
//   U/(U + V)    U = Σ bound (or estimate) over what isn't listed, V = Σ least mass (or estimate)
//                over what is
//
// Blocks with keys of which there is no summary are always listed, and count as nothing in V: so
// both shares are rather too large.
//
// Shapes      scores: masses by the estimate [H, query blocks, probes, key blocks], bounds and
//             least masses [H, query blocks, key blocks] each; and, written, [H, query blocks, 3]:
//             blocks of the list, bits of the largest and of the estimated share
// Workgroups  one per (sequence, head, query block), numbered in one line and folded into x and y
// Barriers    as many for every lane: only whole workgroups leave before them

#import sampling/content
#import sampling/fixed

@group(1) @binding(2) var<storage, read_write> tables: array<u32>;

var<workgroup> largest: array<atomic<i32>, 4>;

// What a list has, and where.
struct Listed {
    first: u32,
    end: u32,
    pairs: u32,
}

// Whether a block is in a list, which ascends.
fn is_listed(list: Listed, block: u32) -> bool {
    var low = list.first;
    var high = list.end;
    while low < high {
        let middle = (low + high) / 2u;
        if tables[list.pairs + 2u * middle] < block {
            low = middle + 1u;
        } else {
            high = middle;
        }
    }
    return low < list.end && tables[list.pairs + 2u * low] == block;
}

// Where the mass of a block lies that counts as number `kind`: not listed and listed by the bound
// and the least mass, then both by the estimate.
fn place_of(sequence: ContentSequence, row: u32, kind: u32, block: u32) -> u32 {
    if kind >= 2u {
        return sequence.mass_base + row * params.probes * sequence.key_blocks + block;
    }
    let plane = params.heads * sequence.query_blocks * sequence.key_blocks;
    return sequence.plane_base + kind * plane + row * sequence.key_blocks + block;
}

// U/(U + V) of logarithms.
fn share(left: i32, visited: i32) -> f32 {
    if left == MASKED {
        return 0.0;
    }
    return 1.0 / (1.0 + exp2(clamp(f32(visited - left) / f32(OCTAVE), -126.0, 126.0)));
}

@compute @workgroup_size(INVOCATIONS)
fn block_missing(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let own = head_row(place_in_line(workgroup, workgroups));
    if !own.exists {
        return;
    }
    let sequence = sequences[own.sequence];
    let row = own.row;
    let list_row = own.head / params.heads_per_list * sequence.query_blocks + own.query_block;
    let pairs = sequence.list_base + params.list_groups * sequence.query_blocks + 1u;
    let list = Listed(tables[sequence.list_base + list_row], tables[sequence.list_base + list_row + 1u], pairs);
    let known = first_unknown(sequence);
    if lane < 4u {
        atomicStore(&largest[lane], MASKED);
    }
    workgroupBarrier();
    for (var block = lane; block < known; block += INVOCATIONS) {
        let listed = select(0u, 1u, is_listed(list, block));
        for (var kind = listed; kind < 4u; kind += 2u) {
            atomicMax(&largest[kind], scores[place_of(sequence, row, kind, block)]);
        }
    }
    workgroupBarrier();
    var sums: array<vec2<u32>, 4>;
    for (var block = lane; block < known; block += INVOCATIONS) {
        let listed = select(0u, 1u, is_listed(list, block));
        for (var kind = listed; kind < 4u; kind += 2u) {
            let mass = scores[place_of(sequence, row, kind, block)];
            if mass != MASKED {
                sums[kind] = plus(sums[kind], exp2_of(mass - atomicLoad(&largest[kind])));
            }
        }
    }
    var logs: array<i32, 4>;
    for (var kind = 0u; kind < 4u; kind++) {
        let sum = sum_over_lanes(lane, sums[kind]);
        let most = atomicLoad(&largest[kind]);
        logs[kind] = select(log2_sum(max(most, -FARTHEST), sum), MASKED, most == MASKED);
    }
    if lane == 0u {
        let at = sequence.report_base + REPORT_WORDS * row;
        scores[at] = i32(list.end - list.first);
        // What units round off, and f32 before.
        let bound = select(logs[0] + ROUNDED_OFF, MASKED, logs[0] == MASKED);
        scores[at + 1u] = bitcast<i32>(share(bound, max(logs[1], -FARTHEST)));
        scores[at + 2u] = bitcast<i32>(share(logs[2], max(logs[3], -FARTHEST)));
    }
}
