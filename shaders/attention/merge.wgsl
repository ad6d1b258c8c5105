// merge: takes one more attention state into a running merge, row by row.
//
// A state is a row's output O and its natural log-sum-exp L over some keys: O = Σ e^s·v / Σ e^s,
// L = ln Σ e^s. With w = e^L, after R states
//
//   Ô = Σᵣ wᵣ·Oᵣ / Σᵣ wᵣ        L̂ = ln Σᵣ wᵣ  (− ln R where the states are
//                                            independent rounds of one sum: FLAG_MEAN)
//
// which is exact where the states are of disjoint keys (FlashDecoding's split; partition rounds),
// and a consistent estimate where each is an independent round of sampling. For these the error of
// the ratio Ô follows from the spread of the rounds (the delta method, Cochran 1977, §6):
//
//   SE² = R/(R−1) · Σᵣ wᵣ²·|Oᵣ − Ô|² / (Σᵣ wᵣ)²  =  R/(R−1) · B/W² · (q + |M − Ô|²)
//
// W = Σ w, B = Σ w², M = Σ w²·O / B and q = Σ w²·|O − M|² / B are kept up to date by West's
// recurrence (1979), which subtracts no large numbers. W is kept as its logarithm and B as B/W², so
// that no scale overflows.
//
// Where heads have sinks, no state has seen one: the running state stays without, and what is
// written is beside the head's sink z (sink.wgsl). With f = e^L̂ / (e^L̂ + e^z) of a mean over
// rounds, a round then adds wᵣ·(Oᵣ − Ô) + (1−f)·(wᵣ − W/R)·Ô to what f·Ô is off by, so
//
//   SE² = f²·R/(R−1) · (B/W² · (q + |M − Ô|² + 2(1−f)·⟨Ô, M − Ô⟩) + (1−f)²·|Ô|²·Σᵣ (wᵣ − W/R)²/W²)
//
// whose last sum is kept up to date likewise (Welford 1962). The middle term is no larger than
// twice the root of the product of the others (Cauchy and Schwarz), and is held to that.
//
// A state that is empty (L = −∞, O = 0) adds nothing, and where all are, so is the merged one. A
// state that is NaN makes the merged one NaN, and its error: told by bits, since compilers may take
// every number for finite.
//
// Shapes      round_output (rows, D_v) · round_lse (rows), bits · state (rows of Ô, [M,] and (ln W,
//             B/W², q, Σ (w − W/R)²/W²)) · output (batch, H, q_len, D_v), any strides · lse,
//             standard_error (batch, H, q_len), bits
// Workgroups  one per (sequence, head, tile of ROWS rows), one row per invocation, numbered in one
//             line and folded into x and y
// Barriers    none

#import attention/sink
#import shared/line
#import shared/store_$(OUTPUT)

struct MergeParams {
    heads: u32,
    tiles: u32,                // of the longest sequence
    work_items: u32,           // sequences × heads × tiles
    value_quads: u32,
    state_head_stride: u32,    // rows of one head in the round's tensors and in the state
    o_head_stride: u32,        // quads
    o_row_stride: u32,
    lse_head_stride: u32,      // elements
    error_head_stride: u32,
    flags: u32,                // FLAG_*
    rounds: f32,               // states so far, this one included
    log_rounds: f32,           // ln rounds
}

struct MergeSequence {
    state_row: u32,  // row 0 of head 0, in the round's tensors and in the state
    o_base: u32,
    lse_base: u32,
    error_base: u32,
    rows: u32,
}

@group(0) @binding(0) var<uniform> params: MergeParams;
@group(0) @binding(1) var<storage, read> sequences: array<MergeSequence>;
@group(1) @binding(0) var<storage, read> round_output: array<vec4<f32>>;
@group(1) @binding(1) var<storage, read> round_lse: array<u32>;
@group(1) @binding(2) var<storage, read_write> state: array<vec4<f32>>;
@group(1) @binding(3) var<storage, read_write> output: array<OutputQuad>;
@group(1) @binding(4) var<storage, read_write> lse: array<u32>;
@group(1) @binding(5) var<storage, read_write> standard_error: array<u32>;
@group(1) @binding(6) var<storage, read> sinks: array<f32>;  // of each head; read only with FLAG_SINKS

// The logarithm of 0. (WGSL need not know infinities.)
const NONE: f32 = LOWEST;

// By bits: a comparison is false of NaN, or true.
fn is_none(logarithm: f32) -> bool {
    return bitcast<u32>(logarithm) == bitcast<u32>(NONE);
}

// e^(a − b), and 0 where a is the logarithm of 0.
fn ratio(a: f32, b: f32) -> f32 {
    return select(exp(a - b), 0.0, is_none(a));
}

@compute @workgroup_size(ROWS)
fn merge(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let item = place_in_line(workgroup, workgroups);
    if item >= params.work_items {
        return;
    }
    let head = (item / params.tiles) % params.heads;
    let sequence = sequences[item / (params.tiles * params.heads)];
    let row = (item % params.tiles) * ROWS + lane;
    if row >= sequence.rows {
        return;
    }
    let quads = params.value_quads;
    let at = sequence.state_row + head * params.state_head_stride + row;
    let added_at = at * quads;
    let mean_at = at * (STATE_MEANS * quads + STATE_SUMS);
    let log_at = mean_at + STATE_MEANS * quads;
    let o_at = sequence.o_base + head * params.o_head_stride + row * params.o_row_stride;

    let bits = round_lse[at];
    var new_log = bitcast<f32>(bits);
    if bits == NEGATIVE_INFINITY_BITS {
        new_log = NONE;
    }
    let first = (params.flags & FLAG_FIRST) != 0u;
    var sums = state[log_at];
    if first {
        sums = vec4<f32>(NONE, 0.0, 0.0, 0.0);
    }
    let highest = max(sums.x, new_log);
    let old_weight = ratio(sums.x, highest);
    let new_weight = ratio(new_log, highest);
    let weight = old_weight + new_weight;
    // Where every state is empty, so is the merged one.
    let empty = is_none(sums.x) && is_none(new_log);
    let old_share = select(old_weight / weight, 0.0, empty);
    let new_share = select(new_weight / weight, 0.0, empty);
    let log_weight = select(highest + log(weight), NONE, empty);

    var own_lse = log_weight;
    if (params.flags & FLAG_MEAN) != 0u {
        own_lse -= params.log_rounds;
    }
    var row_lse = select(bitcast<u32>(own_lse), NEGATIVE_INFINITY_BITS, empty);
    let has_sink = (params.flags & FLAG_SINKS) != 0u;
    var kept = 1.0;  // f
    if has_sink {
        let beside = beside_sink(own_lse, sinks[head]);
        kept = select(beside.x, 0.0, empty);
        row_lse = bitcast<u32>(select(beside.y, sinks[head], empty));
    }

    // Shares by squared weight, for the spread. B/W² is at least one over the number of states, so
    // it may be divided by.
    let old_square = sums.y * old_share * old_share;
    let new_square = new_share * new_share;
    let square = old_square + new_square;
    let old_part = select(old_square / square, 0.0, empty);
    let new_part = select(new_square / square, 0.0, empty);

    // What the weights of rounds vary by.
    let past = max(params.rounds - 1.0, 1.0);
    let step_up = new_share - old_share / past;
    let varied = sums.w * old_share * old_share + (params.rounds - 1.0) / params.rounds * step_up * step_up;

    var moved = 0.0;  // |O − M|² before M moves
    var apart = 0.0;  // |M − Ô|² after both have moved
    var along = 0.0;  // ⟨Ô, M − Ô⟩
    var size = 0.0;   // |Ô|²
    for (var c = 0u; c < quads; c++) {
        let added = round_output[added_at + c];
        // What an earlier use of the state left there is selected away, never multiplied by zero.
        let mean = select(state[mean_at + c], vec4<f32>(0.0), first) * old_share + added * new_share;
        state[mean_at + c] = mean;
        output[o_at + c] = store_quad(mean * kept);
#if SPREAD
        let centre = select(state[mean_at + quads + c], vec4<f32>(0.0), first);
        let step = added - centre;
        moved += dot(step, step);
        let moved_centre = centre + new_part * step;
        state[mean_at + quads + c] = moved_centre;
        let offset = moved_centre - mean;
        apart += dot(offset, offset);
        along += dot(mean, offset);
        size += dot(mean, mean);
#end
    }
    let spread = old_part * (sums.z + new_part * moved);
    state[log_at] = vec4<f32>(log_weight, square, spread, varied);

    if (params.flags & FLAG_LSE) != 0u {
        lse[sequence.lse_base + head * params.lse_head_stride + row] = row_lse;
    }
    if (params.flags & FLAG_ERROR) != 0u {
        // One round says nothing of its error.
        var error = INFINITY_BITS;
        if params.rounds > 1.5 {
            var squares = square * (spread + apart);
            if has_sink {
                let lost = 1.0 - kept;
                let of_sums = lost * lost * size * varied;
                // The two vary together by no more than each does: what is past it is rounding.
                let most = 2.0 * sqrt(squares * of_sums);
                squares += of_sums + clamp(2.0 * lost * square * along, -most, most);
            }
            error = bitcast<u32>(kept * sqrt(params.rounds / (params.rounds - 1.0) * squares));
        }
        standard_error[sequence.error_base + head * params.error_head_stride + row] = error;
    }
}
