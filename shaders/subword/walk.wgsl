// The cheapest cut of a word, as `Segmenter` finds it on the host, bit for bit: what the kernels of
// sub-words share.
//
//   D(0) = 0      D(j) = min over the pieces u from i to j of D(i) + cost(u)
//
// D(i) is final when the walk starts at i, and no piece is longer than MAX_PIECE bytes: so a ring
// of MAX_PIECE numbers has room for all that is open, and the place of a start is that of the
// position MAX_PIECE behind it. The costs of LONGEST pieces add up to less than NO_PATH
// (`costs::BOUND` in Rust). Starts ascend and only what is better replaces what is there, so that
// ties go to the longest last piece.
//
// Shapes      words: groups of LANES words; of each group rows of LANES numbers, one a word: HEADER
//             rows, of which the first has lengths in bytes, then rows of the bytes, four a number
//             nodes: the double array of the vocabulary (src/subword/trie.rs): where the children
//             begin, or 0; the parent and 1; the piece that ends here and 1, or 0; its cost
// Workgroups  one per group, a word an invocation, numbered in one line and folded into x and y
// Barriers    none: an invocation reads the workgroup memory that it wrote itself

#import shared/line

struct SubwordParams {
    groups: u32,
    rows: u32,  // of bytes, in each group
}

@group(0) @binding(0) var<uniform> params: SubwordParams;
@group(0) @binding(1) var<storage, read> words: array<u32>;
@group(0) @binding(2) var<storage, read> nodes: array<vec4<u32>>;

const NO_PATH: u32 = 0xffffffffu;

// D(j) at (j mod MAX_PIECE)·LANES + lane: neighbours in a subgroup take neighbouring banks.
var<workgroup> costs: array<u32, MAX_PIECE * LANES>;
#if KEEPS
// The best path to j ≥ 1, at (j − 1)·LANES + lane: how many pieces << COUNT_SHIFT, bytes of the
// last one less 1 << NUMBER_BITS, and its number.
var<workgroup> lasts: array<u32, LONGEST * LANES>;
#end

// Where the first number of a word lies.
fn head_of(group: u32, lane: u32) -> u32 {
    return group * (HEADER + params.rows) * LANES + lane;
}

// A path that goes on from `start` by a piece. `count` is how many pieces it has, where the fewest
// are wanted.
fn reach(start: u32, end: u32, piece: u32, cost: u32, count: u32, lane: u32) {
    let slot = (end % MAX_PIECE) * LANES + lane;
    let best = costs[slot];
    var better = cost < best;
#if FEWEST
    if best != NO_PATH {
        let pieces = lasts[(end - 1u) * LANES + lane] >> COUNT_SHIFT;
        better = count < pieces || (count == pieces && better);
    }
#end
    if better {
        costs[slot] = cost;
#if KEEPS
        lasts[(end - 1u) * LANES + lane] = (count << COUNT_SHIFT) | ((end - start - 1u) << NUMBER_BITS) | piece;
#end
    }
}

// The least cost of a word without a piece (given by its number and 1; 0 forbids none).
fn walk(head: u32, length: u32, without: u32, lane: u32) -> u32 {
    for (var slot = 0u; slot < MAX_PIECE; slot++) {
        costs[slot * LANES + lane] = NO_PATH;
    }
    costs[lane] = 0u;
    let root = nodes[0].x;
    for (var start = 0u; start < length; start++) {
        let slot = (start % MAX_PIECE) * LANES + lane;
        // Every position is reached, since all single bytes are pieces.
        let cost = costs[slot];
        costs[slot] = NO_PATH;
        var count = 1u;
#if FEWEST
        if start > 0u {
            count += lasts[(start - 1u) * LANES + lane] >> COUNT_SHIFT;
        }
#end
        var node = 0u;
        var base = root;
        var text = 0u;
        let end = min(start + MAX_PIECE, length);
        for (var at = start; at < end && base != 0u; at++) {
            if at == start || at % 4u == 0u {
                text = words[head + (HEADER + at / 4u) * LANES] >> (8u * (at % 4u));
            }
            let child = base + (text & 0xffu);
            text >>= 8u;
            let found = nodes[child];
            if found.y != node + 1u {
                break;
            }
            if found.z != 0u && found.z != without {
                reach(start, at + 1u, found.z - 1u, cost + found.w, count, lane);
            }
            node = child;
            base = found.x;
        }
    }
    return costs[(length % MAX_PIECE) * LANES + lane];
}
