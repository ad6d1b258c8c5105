// What the three kernels that draw a schedule are bound to, and the rows that they draw: design
// §2.2, `Schedule::sample` in Rust.
//
// Numbers are 32.32 fixed point, as on the host: a probability is p_low, or 1 where ln p is 0; a
// cumulative sum is two words. Rust fills these structs (src/sampling/gpu/params.rs); a test
// compares the two layouts field by field.

#import shared/line
#import shared/random

struct ScheduleParams {
    sequences: u32,
    groups: u32,        // block lists of a query block
    chunks: u32,        // chunks of ROWS rows of the longest sequence
    work_items: u32,    // sequences × chunks
    sink_blocks: u32,
    capacity: u32,      // entries that one sequence has room for
    sums: u32,          // words from the start of a sequence's lists to the sums of its chunks
    flags: u32,         // FLAG_CAUSAL
}

struct ScheduleSequence {
    base: u32,          // where its lists begin in `tables`
    first_block: i32,   // absolute index of the first query block
    query_blocks: u32,
    key_blocks: u32,
    seed: u32,          // hash of what all of its rows share
    round: u32,
}

// p and its running sum at one block distance.
struct Distance {
    sum_low: u32,       // p(0) + … + p(d − 1)
    sum_high: u32,
    p_low: u32,
    ln_p: u32,          // bits
}

@group(0) @binding(0) var<uniform> params: ScheduleParams;
@group(0) @binding(1) var<storage, read> sequences: array<ScheduleSequence>;
@group(1) @binding(0) var<storage, read> distances: array<Distance>;

// One word per sequence: how many blocks it keeps, or capacity + 1 where that is more. Then, for
// each sequence, its lists: an offset per row and one past the end, (key block, bits of ln p)
// pairs; and behind the room for these, the sums of its chunks.
@group(1) @binding(1) var<storage, read_write> tables: array<u32>;

// Counts saturate just past the capacity, so that no sum of them wraps.
fn add_counts(a: u32, b: u32) -> u32 {
    return min(a + b, params.capacity + 1u);
}

fn row_count(sequence: ScheduleSequence) -> u32 {
    return params.groups * sequence.query_blocks;
}

// One row: its candidates at the distances before.x ≤ d < before.y (J = I − d) and after.x ≤ d <
// after.y (J = I + d), beside its sinks.
struct Row {
    group: u32,
    query_block: i32,
    sinks: i32,
    before: vec2<i32>,
    after: vec2<i32>,
    seed: u32,
    round: u32,
    pairs: u32,         // where the pairs of its sequence begin
}

fn row_of(sequence: ScheduleSequence, index: u32) -> Row {
    let query_block = sequence.first_block + i32(index % sequence.query_blocks);
    var end = i32(sequence.key_blocks);
    if (params.flags & FLAG_CAUSAL) != 0u {
        end = clamp(query_block + 1, 0, end);
    }
    let sinks = i32(min(params.sink_blocks, u32(end)));
    let before = vec2<i32>(max(query_block - end + 1, 0), max(query_block - sinks + 1, 0));
    let after = vec2<i32>(max(sinks - query_block, 1), max(end - query_block, 1));
    let pairs = sequence.base + row_count(sequence) + 1u;
    return Row(index / sequence.query_blocks, query_block, sinks, before, after, sequence.seed, sequence.round, pairs);
}

// The random number of a row: `Seed::uniform` in Rust.
fn uniform_number(row: Row, purpose: u32) -> u32 {
    let hash = pcg_hash(pcg_hash(row.seed ^ row.group) ^ row.round);
    return pcg_hash(pcg_hash(hash ^ bitcast<u32>(row.query_block)) ^ purpose);
}

// Writes one entry, unless it is past the capacity.
fn put(row: Row, at: u32, block: i32, ln_p: u32) {
    if at < params.capacity {
        tables[row.pairs + 2u * at] = u32(block);
        tables[row.pairs + 2u * at + 1u] = ln_p;
    }
}

var<workgroup> partial_counts: array<u32, ROWS>;

// Over the lanes of a workgroup: the sum of the counts before this lane's, and of all. Every lane
// must come here.
fn scan_counts(lane: u32, count: u32) -> vec2<u32> {
    var sum = count;
    partial_counts[lane] = sum;
    workgroupBarrier();
    for (var reach = 1u; reach < ROWS; reach *= 2u) {
        if lane >= reach {
            sum = add_counts(sum, partial_counts[lane - reach]);
        }
        workgroupBarrier();
        partial_counts[lane] = sum;
        workgroupBarrier();
    }
    var before = 0u;
    if lane > 0u {
        before = partial_counts[lane - 1u];
    }
    return vec2<u32>(before, partial_counts[ROWS - 1u]);
}
