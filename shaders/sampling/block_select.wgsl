// block_select: the block lists of every (list group, query block), from the shares of
// block_shares: what `Schedule::select` chooses from them, bit for bit.
//
//   score(j) = log2 mean (or maximum) over the heads of the list of 2^share(j)
//
// The list has all blocks that are pinned, and of the others as many as the budget leaves: those of
// the highest scores, of equal ones the nearer.
//
// Shapes      scores: shares [H, query blocks, key blocks] → pooled [list groups, query blocks, key
//             blocks] · tables: per sequence rows + 1 offsets, then (key block, bits of ln p) pairs;
//             rows = list groups × query blocks. How many pairs a row has follows from the lengths,
//             so every workgroup knows where its own begin.
// Workgroups  one per (sequence, list group, query block), numbered in one line and folded into x
//             and y
// Selection   scores become order-preserving unsigned numbers, with the nearness behind them, so
//             that no two are equal; the least number that is taken is found digit by digit, each
//             by counting how many have which
// Barriers    in loops and branches that depend on the workgroup alone: only whole workgroups leave
//             before them

#import sampling/content
#import sampling/fixed

@group(1) @binding(2) var<storage, read_write> tables: array<u32>;

// Digits of numbers: as many values as a workgroup has lanes.
const DIGIT_BITS: u32 = 6u;
const SCORE_DIGITS: u32 = 6u;

var<workgroup> counts: array<atomic<u32>, INVOCATIONS>;
var<workgroup> sums: array<atomic<u32>, 2>;

// How many blocks of a row are pinned, and how many aren't.
struct Row {
    query_block: i32,   // absolute
    seen: vec2<u32>,
    free: vec2<u32>,    // those that may be free, but for the window
    pinned_count: u32,
    free_count: u32,
}

fn row_of(sequence: ContentSequence, query_block: u32) -> Row {
    let seen = seen_blocks(sequence, query_block);
    let begin = max(seen.x, params.sink_blocks);
    let end = max(min(seen.y, first_unknown(sequence)), begin);
    let own = sequence.first_block + i32(query_block);
    let reach = i32(params.window_blocks);
    let near = vec2<i32>(max(own - reach + 1, i32(begin)), min(own + reach, i32(end)));
    let free = end - begin - u32(max(near.y - near.x, 0));
    return Row(own, seen, vec2<u32>(begin, end), seen.y - seen.x - free, free);
}

// How many blocks of a row are chosen.
fn chosen(row: Row) -> u32 {
    return min(row.free_count, max(params.budget, row.pinned_count) - row.pinned_count);
}

fn is_free(row: Row, block: u32) -> bool {
    let distance = u32(abs(row.query_block - i32(block)));
    return block >= row.free.x && block < row.free.y && distance >= params.window_blocks;
}

// The score of a block for the heads that share the list.
fn pooled(sequence: ContentSequence, group: u32, query_block: u32, block: u32) -> i32 {
    let stride = sequence.query_blocks * sequence.key_blocks;
    let first = sequence.share_base + group * params.heads_per_list * stride + query_block * sequence.key_blocks + block;
    var most = MASKED;
    for (var head = 0u; head < params.heads_per_list; head++) {
        most = max(most, scores[first + head * stride]);
    }
    if params.heads_per_list == 1u || (params.flags & FLAG_LARGEST) != 0u {
        return most;
    }
    var sum = vec2<u32>(0u);
    for (var head = 0u; head < params.heads_per_list; head++) {
        sum = plus(sum, exp2_of(scores[first + head * stride] - most));
    }
    return log2_sum(most, sum) - log2_of(vec2<u32>(0u, params.heads_per_list));
}

// A free block's number: the higher its score, and then the nearer it is, the larger.
fn rank(row: Row, score: i32, block: u32) -> vec2<u32> {
    let distance = u32(abs(row.query_block - i32(block)));
    let tie = 2u * distance + select(0u, 1u, i32(block) > row.query_block);
    return vec2<u32>((1u << (DIGIT_BITS * params.tie_digits)) - 1u - tie, bitcast<u32>(score) ^ 0x80000000u);
}

// Digit `place` of a number, from the highest on, and whether those before it are those of another
// number.
fn digit(number: vec2<u32>, place: u32) -> u32 {
    if place < SCORE_DIGITS {
        return (number.y >> (DIGIT_BITS * (SCORE_DIGITS - 1u - place))) % INVOCATIONS;
    }
    return (number.x >> (DIGIT_BITS * (SCORE_DIGITS + params.tie_digits - 1u - place))) % INVOCATIONS;
}

fn begins_alike(a: vec2<u32>, b: vec2<u32>, place: u32) -> bool {
    if place == 0u {
        return true;
    }
    if place < SCORE_DIGITS {
        let by = DIGIT_BITS * (SCORE_DIGITS - place);
        return a.y >> by == b.y >> by;
    }
    let by = DIGIT_BITS * (SCORE_DIGITS + params.tie_digits - place);
    return a.y == b.y && a.x >> by == b.x >> by;
}

@compute @workgroup_size(INVOCATIONS)
fn block_select(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let item = place_in_line(workgroup, workgroups);
    let query_block = item % params.query_blocks;
    let group = item / params.query_blocks % params.list_groups;
    let index = item / (params.query_blocks * params.list_groups);
    if index >= params.sequences {
        return;
    }
    let sequence = sequences[index];
    if query_block >= sequence.query_blocks {
        return; // this sequence is shorter than the longest
    }
    let row = row_of(sequence, query_block);
    let quota = chosen(row);

    // Where the row begins: behind those of its group before it, and those of the groups before.
    if lane < 2u {
        atomicStore(&sums[lane], 0u);
    }
    workgroupBarrier();
    var before = 0u;
    var all = 0u;
    for (var other = lane; other < sequence.query_blocks; other += INVOCATIONS) {
        let counted = row_of(sequence, other);
        let kept = counted.pinned_count + chosen(counted);
        all += kept;
        before += select(0u, kept, other < query_block);
    }
    atomicAdd(&sums[0], before);
    atomicAdd(&sums[1], all);

    // Scores of the list, read by other lanes later.
    let pool = sequence.pool_base + (group * sequence.query_blocks + query_block) * sequence.key_blocks;
    for (var block = lane; block < sequence.key_blocks; block += INVOCATIONS) {
        if is_free(row, block) {
            scores[pool + block] = pooled(sequence, group, query_block, block);
        }
    }
    storageBarrier();
    workgroupBarrier();
    let begin = group * atomicLoad(&sums[1]) + atomicLoad(&sums[0]);

    // The number of the last block that is chosen, digit by digit.
    var least = vec2<u32>(0u);
    if quota > 0u && quota < row.free_count {
        var left = quota;
        for (var place = 0u; place < SCORE_DIGITS + params.tie_digits; place++) {
            workgroupBarrier();
            atomicStore(&counts[lane], 0u);
            workgroupBarrier();
            for (var block = row.free.x + lane; block < row.free.y; block += INVOCATIONS) {
                if is_free(row, block) {
                    let number = rank(row, scores[pool + block], block);
                    if begins_alike(number, least, place) {
                        atomicAdd(&counts[digit(number, place)], 1u);
                    }
                }
            }
            workgroupBarrier();
            var value = INVOCATIONS - 1u;
            for (; value > 0u; value--) {
                let count = atomicLoad(&counts[value]);
                if count >= left {
                    break;
                }
                left -= count;
            }
            if place < SCORE_DIGITS {
                least.y |= value << (DIGIT_BITS * (SCORE_DIGITS - 1u - place));
            } else {
                least.x |= value << (DIGIT_BITS * (SCORE_DIGITS + params.tie_digits - 1u - place));
            }
        }
    }

    // Each lane has a strip of blocks, and says how many of them are taken.
    let strip = (row.seen.y - row.seen.x + INVOCATIONS - 1u) / INVOCATIONS;
    let first = min(row.seen.x + lane * strip, row.seen.y);
    let end = min(first + strip, row.seen.y);
    var own = 0u;
    for (var block = first; block < end; block++) {
        own += select(0u, 1u, is_taken(row, quota, least, pool, block));
    }
    workgroupBarrier();
    atomicStore(&counts[lane], own);
    workgroupBarrier();
    var at = begin;
    for (var other = 0u; other < lane; other++) {
        at += atomicLoad(&counts[other]);
    }
    let rows = params.list_groups * sequence.query_blocks;
    let list = group * sequence.query_blocks + query_block;
    let pairs = sequence.list_base + rows + 1u;
    for (var block = first; block < end; block++) {
        if is_taken(row, quota, least, pool, block) {
            tables[pairs + 2u * at] = block;
            tables[pairs + 2u * at + 1u] = 0u;
            at++;
        }
    }
    if lane == 0u {
        tables[sequence.list_base + list] = begin;
    }
    if lane == INVOCATIONS - 1u && list + 1u == rows {
        tables[sequence.list_base + rows] = at;
    }
}

fn is_taken(row: Row, quota: u32, least: vec2<u32>, pool: u32, block: u32) -> bool {
    if !is_free(row, block) {
        return true;
    }
    if quota == 0u || quota == row.free_count {
        return quota > 0u;
    }
    return !is_below(rank(row, scores[pool + block], block), least);
}
