// block_shares: the shares of the attention mass that key blocks are estimated to have for a query
// block, as integers: logarithms to base 2 in units of 1/1024.
//
//   share(j) = log2 mean over the rows r that see j of 2^(e_r(j) − log2 Σ_j′ 2^e_r(j′))
//
// The second of three passes (block_scores, block_select) that choose what `Schedule::select`
// chooses, bit for bit: src/sampling/content/scores.rs.
//
// Shapes      scores: masses [H, query blocks, probes, key blocks] → shares [H, query blocks, key
//             blocks] · a block that no row sees is MASKED, one of whose keys some are unknown CERTAIN
// Workgroups  one per (sequence, head, query block), numbered in one line and folded into x and y
// Barriers    in loops over probes, as many for every lane: only whole workgroups leave before them

#import sampling/content
#import sampling/fixed

var<workgroup> largest: atomic<i32>;
var<workgroup> totals: array<i32, PROBES>;

@compute @workgroup_size(INVOCATIONS)
fn block_shares(
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
    let masses = sequence.mass_base + row * params.probes * sequence.key_blocks;
    let seen = seen_blocks(sequence, own.query_block);
    let unknown = first_unknown(sequence);
    for (var probe = 0u; probe < params.probes; probe++) {
        let first = masses + probe * sequence.key_blocks;
        var most = MASKED;
        for (var block = lane; block < unknown; block += INVOCATIONS) {
            most = max(most, scores[first + block]);
        }
        if lane == 0u {
            atomicStore(&largest, MASKED);
        }
        workgroupBarrier();
        atomicMax(&largest, most);
        workgroupBarrier();
        most = atomicLoad(&largest);
        var sum = vec2<u32>(0u);
        for (var block = lane; block < unknown; block += INVOCATIONS) {
            let mass = scores[first + block];
            if mass != MASKED {
                sum = plus(sum, exp2_of(mass - most));
            }
        }
        sum = sum_over_lanes(lane, sum);
        if lane == 0u {
            // Of a row without any mass it doesn't matter.
            totals[probe] = log2_sum(max(most, -FARTHEST), sum);
        }
    }
    workgroupBarrier();
    let shares = sequence.share_base + row * sequence.key_blocks;
    for (var block = lane; block < sequence.key_blocks; block += INVOCATIONS) {
        var share = MASKED;
        if block >= seen.x && block < seen.y {
            share = CERTAIN;
            if block < unknown {
                share = mean_share(masses + block, sequence.key_blocks);
            }
        }
        scores[shares + block] = share;
    }
}

// The mean of a block's shares over the rows that see it; the lowest score where none does.
fn mean_share(first: u32, stride: u32) -> i32 {
    var count = 0u;
    var most = MASKED;
    for (var probe = 0u; probe < params.probes; probe++) {
        let mass = scores[first + probe * stride];
        if mass != MASKED {
            count++;
            most = max(most, max(mass - totals[probe], -FARTHEST));
        }
    }
    if count < 2u {
        return select(most, -FARTHEST, count == 0u);
    }
    var sum = vec2<u32>(0u);
    for (var probe = 0u; probe < params.probes; probe++) {
        let mass = scores[first + probe * stride];
        if mass != MASKED {
            sum = plus(sum, exp2_of(max(mass - totals[probe], -FARTHEST) - most));
        }
    }
    return log2_sum(most, sum) - log2_of(vec2<u32>(0u, count));
}
