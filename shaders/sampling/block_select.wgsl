// block_select: the block lists of every (list group, query block), from the shares of
// block_shares: what `Schedule::select` chooses from them, bit for bit.
//
//   score(j) = log2 mean (or maximum) over the heads of the list of 2^share(j)
//
// The list has all blocks that are pinned, and of the others as many as the budget leaves: those of
// the highest scores, of equal ones the nearer.
//
// Or it draws them (DRAWN) with the probabilities
//
//   p(j) = min(1, 2^(γ + τ·score(j) − α·log2(1 + d)))      Σ p = what the budget leaves
//
// systematically: with one uniform number u a row, block j is taken where ⌊u + p(0) + … + p(j)⌋
// steps up. What rounding leaves of the budget goes to the first blocks that aren't certain.
//
// Shapes      scores: shares [H, query blocks, key blocks] → pooled [list groups, query blocks, key
//             blocks] · tables: per sequence rows + 1 offsets, then (key block, bits of ln p) pairs;
//             rows = list groups × query blocks. How many pairs a row has follows from the lengths,
//             so every workgroup knows where its own begin.
// Workgroups  one per (sequence, list group, query block), numbered in one line and folded into x
//             and y
// Selection   scores become order-preserving unsigned numbers, with the nearness behind them, so
//             that no two are equal; the least number that is taken is found digit by digit, each
//             by counting how many have which, until all that begin alike are taken
// Draws       γ bit by bit, each by the sum of what all blocks would have; then which blocks get
//             what is left, bit by bit of how far they are from certain
// Barriers    in loops and branches that depend on the workgroup alone: only whole workgroups leave
//             before them

#import sampling/content
#import sampling/fixed
#if DRAWN: #import shared/random

@group(1) @binding(2) var<storage, read_write> tables: array<u32>;

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
// `log_heads` is the logarithm of how many these are.
fn pooled(sequence: ContentSequence, group: u32, query_block: u32, block: u32, log_heads: i32) -> i32 {
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
    return log2_sum(most, sum) - log_heads;
}

// What of blocks of equal scores is less for the nearer one, and never equal.
fn tie_of(row: Row, block: u32) -> u32 {
    let distance = u32(abs(row.query_block - i32(block)));
    return 2u * distance + select(0u, 1u, i32(block) > row.query_block);
}

#if DRAWN
const ONE: vec2<u32> = vec2<u32>(0u, 1u);

// factor·x of a factor in 16.16 fixed point, rounded: 64 bits with a sign.
fn times(factor: u32, x: i32) -> vec2<u32> {
    let size = product(factor, u32(abs(x)));
    let signed = select(size, minus(vec2<u32>(0u), size), x < 0);
    let rounded = plus(signed, vec2<u32>(0x8000u, 0u));
    return vec2<u32>((rounded.x >> 16u) | (rounded.y << 16u), bitcast<u32>(bitcast<i32>(rounded.y) >> 16u));
}

// log2 of share^τ·(1 + d)^−α of a free block, with a sign.
fn drawn_score(row: Row, pool: u32, block: u32) -> vec2<u32> {
    let distance = u32(abs(row.query_block - i32(block)));
    let far = log2_of(vec2<u32>(0u, distance + 1u));
    return minus(times(params.tau, scores[pool + block]), times(params.alpha, far));
}

// min(1, 2^x) in 32.32 fixed point.
fn probability(x: vec2<u32>) -> vec2<u32> {
    if bitcast<i32>(x.y) >= 0 {
        return ONE;
    }
    // Below what a word holds, and long before, it is 0.
    let far = x.y != 0xffffffffu || x.x < 0x80000000u;
    return select(exp2_of(bitcast<i32>(x.x | 0x80000000u)), vec2<u32>(0u), far);
}

// How far from certain blocks are taken for γ: −1 − x, as far as it matters.
const FAR_BITS: u32 = 16u;

fn distance_to_one(x: vec2<u32>) -> u32 {
    if bitcast<i32>(x.y) >= 0 {
        return 0u; // certain; nothing is missing there
    }
    let far = x.y != 0xffffffffu || ~x.x >= (1u << FAR_BITS);
    return select(~x.x, (1u << FAR_BITS) - 1u, far);
}

// What a row draws by: γ, and the first block in order that isn't certain after all, by how far it
// is from it and its tie, with what it gets on top.
struct Drawing {
    gamma: vec2<u32>,
    far: u32,
    tie: u32,
    rest: vec2<u32>,
}

fn weight(row: Row, drawing: Drawing, pool: u32, block: u32) -> vec2<u32> {
    let x = plus(drawing.gamma, drawn_score(row, pool, block));
    let p = probability(x);
    if p.y == 1u || (drawing.rest.x == 0u && drawing.rest.y == 0u) {
        return p;
    }
    let far = distance_to_one(x);
    let tie = tie_of(row, block);
    if far == drawing.far && tie == drawing.tie {
        return plus(p, drawing.rest);
    }
    return select(p, ONE, far < drawing.far || (far == drawing.far && tie < drawing.tie));
}

// The natural logarithm of a probability: `fixed::ln_of_probability` in Rust.
fn ln_of(p: vec2<u32>) -> f32 {
    if p.y > 0u {
        return 0.0;
    }
    let top = firstLeadingBit(p.x);
    let mantissa = p.x << (31u - top);
    let fraction = power_below(mantissa >> 1u);
    let octaves = (32u - top) * OCTAVE - fraction;
    let reciprocal = select(powers[(OCTAVE - fraction) % OCTAVE], 0x80000000u, fraction == 0u);
    let r = shifted_right(product(mantissa - 2u * powers[fraction], reciprocal), 30u).x;
    let near = (r - shifted_right(product(r, r), 33u).x) >> 5u;
    let all = shifted_right(product(octaves, FIXED_LN_2), 14u).x;
    return 0.0 - f32((all - min(near, all) + 128u) >> 8u) * 0x1p-19;
}

// Over all lanes: what is missing to 1 of the free blocks that come before (far, tie).
fn missing_before(lane: u32, row: Row, gamma: vec2<u32>, pool: u32, far: u32, tie: u32) -> vec2<u32> {
    var sum = vec2<u32>(0u);
    for (var block = row.free.x + lane; block < row.free.y; block += INVOCATIONS) {
        if is_free(row, block) {
            let x = plus(gamma, drawn_score(row, pool, block));
            let own = distance_to_one(x);
            if own < far || (own == far && tie_of(row, block) < tie) {
                sum = plus(sum, minus(ONE, probability(x)));
            }
        }
    }
    return sum_over_lanes(lane, sum);
}

// Over all lanes: the sum of the probabilities for γ.
fn cost(lane: u32, row: Row, gamma: vec2<u32>, pool: u32) -> vec2<u32> {
    var sum = vec2<u32>(0u);
    for (var block = row.free.x + lane; block < row.free.y; block += INVOCATIONS) {
        if is_free(row, block) {
            sum = plus(sum, probability(plus(gamma, drawn_score(row, pool, block))));
        }
    }
    return sum_over_lanes(lane, sum);
}

var<workgroup> strips: array<vec2<u32>, INVOCATIONS>;
#else
// The least and the largest score of free blocks.
var<workgroup> extremes: array<atomic<i32>, 2>;

// What one lane has found for all of them.
var<workgroup> found: vec4<u32>;

// How scores become numbers: what is taken off them, and how many digits the largest has.
struct Numbering {
    floor: i32,
    digits: u32,
}

// A free block's number: the higher its score, and then the nearer it is, the larger.
fn rank(row: Row, numbering: Numbering, score: i32, block: u32) -> vec2<u32> {
    let farthest = (1u << (DIGIT_BITS * params.tie_digits)) - 1u;
    return vec2<u32>(farthest - tie_of(row, block), u32(score - numbering.floor));
}

// Digit `place` of a number, from the highest on, and whether those before it are those of another
// number.
fn digit(numbering: Numbering, number: vec2<u32>, place: u32) -> u32 {
    if place < numbering.digits {
        return (number.y >> (DIGIT_BITS * (numbering.digits - 1u - place))) % INVOCATIONS;
    }
    return (number.x >> (DIGIT_BITS * (numbering.digits + params.tie_digits - 1u - place))) % INVOCATIONS;
}

fn begins_alike(numbering: Numbering, a: vec2<u32>, b: vec2<u32>, place: u32) -> bool {
    if place == 0u {
        return true;
    }
    if place < numbering.digits {
        let by = DIGIT_BITS * (numbering.digits - place);
        return a.y >> by == b.y >> by;
    }
    let by = DIGIT_BITS * (numbering.digits + params.tie_digits - place);
    // Of no digit fewer there is nothing to compare.
    return a.y == b.y && (place == numbering.digits || a.x >> by == b.x >> by);
}
#end DRAWN

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
        #unless DRAWN: atomicStore(&extremes[lane], select(-FARTHEST, FARTHEST, lane == 0u));
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
    let log_heads = log2_of(vec2<u32>(0u, params.heads_per_list));
#unless DRAWN
    var lowest = FARTHEST;
    var highest = -FARTHEST;
#end
    for (var block = row.free.x + lane; block < row.free.y; block += INVOCATIONS) {
        if is_free(row, block) {
            let score = pooled(sequence, group, query_block, block, log_heads);
            scores[pool + block] = score;
#unless DRAWN
            lowest = min(lowest, score);
            highest = max(highest, score);
#end
        }
    }
#unless DRAWN
    atomicMin(&extremes[0], lowest);
    atomicMax(&extremes[1], highest);
#end
    storageBarrier();
    workgroupBarrier();
    let begin = group * atomicLoad(&sums[1]) + atomicLoad(&sums[0]);

#if DRAWN
    var drawing = Drawing(vec2<u32>(0u), 0u, 0u, vec2<u32>(0u));
    if quota > 0u && quota < row.free_count {
        // The largest γ that doesn't cost more than there is.
        let whole = vec2<u32>(0u, quota);
        var gamma = minus(vec2<u32>(0u), vec2<u32>(0u, 1u << (GAMMA_BITS - 32u)));
        for (var bit = GAMMA_BITS + 1u; bit > 0u; bit--) {
            let place = bit - 1u;
            let step = select(vec2<u32>(1u << (place & 31u), 0u), vec2<u32>(0u, 1u << (place & 31u)), place >= 32u);
            let higher = plus(gamma, step);
            let fits = !is_below(whole, cost(lane, row, higher, pool));
            gamma = select(gamma, higher, fits);
        }
        drawing.gamma = gamma;
        let left = minus(whole, cost(lane, row, gamma, pool));
        // The last place before which less is missing than is left.
        for (var bit = FAR_BITS; bit > 0u; bit--) {
            let farther = drawing.far | (1u << (bit - 1u));
            let fits = is_below(missing_before(lane, row, gamma, pool, farther, 0u), left);
            drawing.far = select(drawing.far, farther, fits);
        }
        for (var bit = DIGIT_BITS * params.tie_digits; bit > 0u; bit--) {
            let farther = drawing.tie | (1u << (bit - 1u));
            let fits = is_below(missing_before(lane, row, gamma, pool, drawing.far, farther), left);
            drawing.tie = select(drawing.tie, farther, fits);
        }
        drawing.rest = minus(left, missing_before(lane, row, gamma, pool, drawing.far, drawing.tie));
    }
    let draws = quota > 0u && quota < row.free_count;
#else
    // The number of the last block that is chosen, digit by digit.
    var least = vec2<u32>(0u);
    if lane == 0u {
        let floor = atomicLoad(&extremes[0]);
        let range = u32(max(atomicLoad(&extremes[1]), floor) - floor);
        found = vec4<u32>(bitcast<u32>(floor), (32u - countLeadingZeros(range) + DIGIT_BITS - 1u) / DIGIT_BITS, 0u, 0u);
    }
    let extent = workgroupUniformLoad(&found);
    let numbering = Numbering(bitcast<i32>(extent.x), extent.y);
    if quota > 0u && quota < row.free_count {
        var left = quota;
        for (var place = 0u; place < numbering.digits + params.tie_digits; place++) {
            atomicStore(&counts[lane], 0u);
            workgroupBarrier();
            for (var block = row.free.x + lane; block < row.free.y; block += INVOCATIONS) {
                if is_free(row, block) {
                    let number = rank(row, numbering, scores[pool + block], block);
                    if begins_alike(numbering, number, least, place) {
                        atomicAdd(&counts[digit(numbering, number, place)], 1u);
                    }
                }
            }
            workgroupBarrier();
            if lane == 0u {
                var value = INVOCATIONS - 1u;
                for (; value > 0u; value--) {
                    let count = atomicLoad(&counts[value]);
                    if count >= left {
                        break;
                    }
                    left -= count;
                }
                found = vec4<u32>(value, left, u32(atomicLoad(&counts[value]) == left), 0u);
            }
            let next = workgroupUniformLoad(&found);
            left = next.y;
            if place < numbering.digits {
                least.y |= next.x << (DIGIT_BITS * (numbering.digits - 1u - place));
            } else {
                least.x |= next.x << (DIGIT_BITS * (numbering.digits + params.tie_digits - 1u - place));
            }
            if next.z != 0u {
                break; // all that begin alike are taken
            }
        }
    }
#end DRAWN

    // Each lane has a strip of blocks, and says how many of them are taken.
    let strip = (row.seen.y - row.seen.x + INVOCATIONS - 1u) / INVOCATIONS;
    let first = min(row.seen.x + lane * strip, row.seen.y);
    let end = min(first + strip, row.seen.y);
#if DRAWN
    var weights = vec2<u32>(0u);
    for (var block = first; block < end; block++) {
        if draws && is_free(row, block) {
            weights = plus(weights, weight(row, drawing, pool, block));
        }
    }
    strips[lane] = weights;
    workgroupBarrier();
    // u, and what the blocks before the strip have.
    let hash = pcg_hash(pcg_hash(sequence.seed ^ group) ^ sequence.round);
    var reached = vec2<u32>(pcg_hash(pcg_hash(hash ^ bitcast<u32>(row.query_block)) ^ PURPOSE), 0u);
    for (var other = 0u; other < lane; other++) {
        reached = plus(reached, strips[other]);
    }
    // Of the free blocks as many as there are steps.
    var own = plus(reached, weights).y - reached.y;
    for (var block = first; block < end; block++) {
        if !is_free(row, block) || (!draws && quota > 0u) {
            own++;
        }
    }
#else
    var own = 0u;
    for (var block = first; block < end; block++) {
        own += select(0u, 1u, is_taken(row, quota, numbering, least, pool, block));
    }
#end
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
#if DRAWN
        var taken = !is_free(row, block) || quota == row.free_count;
        var ln_p = 0.0;
        if !taken && draws {
            let p = weight(row, drawing, pool, block);
            let next = plus(reached, p);
            taken = next.y != reached.y;
            reached = next;
            if taken {
                ln_p = ln_of(p);
            }
        }
#else
        let taken = is_taken(row, quota, numbering, least, pool, block);
        let ln_p = 0.0;
#end
        if taken {
            tables[pairs + 2u * at] = block;
            tables[pairs + 2u * at + 1u] = bitcast<u32>(ln_p);
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

#unless DRAWN
fn is_taken(row: Row, quota: u32, numbering: Numbering, least: vec2<u32>, pool: u32, block: u32) -> bool {
    if !is_free(row, block) {
        return true;
    }
    if quota == 0u || quota == row.free_count {
        return quota > 0u;
    }
    return !is_below(rank(row, numbering, scores[pool + block], block), least);
}
#end
