// summarize: what is known of a group of n keys in 8 bits, in integers, so that the host writes the
// same bits from the same keys (src/sampling/content/packed.rs). With the least E of at least
// LEAST_EXPONENT of which 2^E is above all |x| of the group, in units of 2^(E − 22):
//
//   mean = Σx/n    mean_step = ⌈max |mean| / 127⌉    mean_code = mean / mean_step
//   reach = max |x − mean_code·mean_step| + 1    reach_step = ⌈max reach / 255⌉
//   reach_code = ⌈reach / reach_step⌉
//
// Shapes      keys (batch, H_kv, rows, D), rotated as attention rotates them · words: of each group
//             D/4 of codes of means (i8), D/4 of codes of reaches (u8), the two steps as f32
// Runs        groups of one sequence that follow each other; the groups of all runs of a dispatch
//             are numbered in one line
// Workgroups  one per (key/value head, group of the line), numbered in one line and folded into x
//             and y; a lane has a quad of channels of all tokens
// Rounding    none but that of sums in f32, token after token, and of rotations
// Barriers    every lane reaches them: only whole workgroups leave before

#import shared/line
#import shared/search
#import shared/load_$(STORAGE)
#if ROPE: #import attention/turn

struct SummaryParams {
    work_items: u32,    // workgroups with work
    groups: u32,        // of all runs
    runs: u32,
    group: u32,         // tokens
    k_head_stride: u32, // quads
    k_row_stride: u32,
    head_stride: u32,   // words from one head's summaries to the next
    rope_low: u32,      // quads of the position table
    rope_high: u32,
}

struct SummaryRun {
    first: u32,         // the number of its first group in the line: groups of the runs before
    base: u32,          // quads: token 0 of the sequence, in head 0
    group: u32,         // its first group among those of the sequence
    len: u32,           // tokens of the sequence
    words: u32,         // the first word of its group 0, in head 0
    position: i32,      // of token 0
}

@group(0) @binding(0) var<uniform> params: SummaryParams;
@group(0) @binding(1) var<storage, read> runs: array<SummaryRun>;
@group(1) @binding(0) var<storage, read> k: array<InputQuad>;
@group(1) @binding(1) var<storage, read_write> words: array<u32>;

// Where an entry begins, for shared/search.wgsl.
fn begins_at(index: u32) -> u32 {
    return runs[index].first;
}

// Integers in the order of the numbers; those of 0 and −0 are neighbours.
fn in_order(x: vec4<f32>) -> vec4<i32> {
    let bits = bitcast<vec4<i32>>(x);
    return bits ^ ((bits >> vec4<u32>(31u)) & vec4<i32>(0x7fffffff));
}

// The bits of the number that has a place in that order.
fn bits_of(place: i32) -> u32 {
    return bitcast<u32>(place ^ ((place >> 31u) & 0x7fffffff));
}

// A magnitude in units of 2^(E − 22), rounded down, and what is left of it: 0, 1 below a half, 2 at
// a half, 3 above it.
fn in_units(bits: u32, exponent: i32) -> vec2<u32> {
    let stored = (bits >> 23u) & 255u;
    let mantissa = (bits & 0x7fffffu) | select(0u, 0x800000u, stored > 0u);
    // Numbers are below 2^E, sums of 256 of them below 2^(E + 8).
    let by = 128 + exponent - i32(max(stored, 1u));
    if by <= 0 {
        return vec2<u32>(mantissa << u32(-by), 0u);
    }
    if by > 24 {
        return vec2<u32>(0u, select(0u, 1u, mantissa > 0u));
    }
    let rest = mantissa & ((1u << u32(by)) - 1u);
    let half = 1u << u32(by - 1);
    return vec2<u32>(mantissa >> u32(by), select(select(2u, select(1u, 3u, rest > half), rest != half), 0u, rest == 0u));
}

// A number rounded down to units.
fn rounded_down(bits: u32, exponent: i32) -> i32 {
    let size = in_units(bits, exponent);
    let away = i32(size.x + select(0u, 1u, size.y > 0u));
    return select(i32(size.x), -away, bits >> 31u == 1u);
}

// A number to the nearest unit, at a half to the even one.
fn rounded_even(bits: u32, exponent: i32) -> i32 {
    let size = in_units(bits, exponent);
    let up = size.y == 3u || (size.y == 2u && (size.x & 1u) == 1u);
    let rounded = i32(size.x + select(0u, 1u, up));
    return select(rounded, -rounded, bits >> 31u == 1u);
}

// x / by to the nearest, away from 0 at a half; 0 of 0 / 0.
fn quotient(x: i32, by: u32) -> i32 {
    let size = i32((2u * u32(abs(x)) + by) / max(2u * by, 1u));
    return select(size, -size, x < 0);
}

// The bits of x·2^(E − 22), of whole numbers below 2²⁴.
fn scaled(x: u32, exponent: i32) -> u32 {
    return select(bitcast<u32>(bitcast<i32>(f32(x)) + ((exponent - 22) << 23u)), 0u, x == 0u);
}

var<workgroup> farthest: atomic<u32>;
var<workgroup> largest_mean: atomic<u32>;
var<workgroup> largest_reach: atomic<u32>;

@compute @workgroup_size(INVOCATIONS)
fn summarize(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let item = place_in_line(workgroup, workgroups);
    if item >= params.work_items {
        return;
    }
    let place = item % params.groups;
    let head = item / params.groups;
    let run = runs[entry_of(place, params.runs)];
    let group = run.group + place - run.first;
    let first = group * params.group;
    let end = min(first + params.group, run.len);
    let c = min(lane, HEAD_QUADS - 1u);
    var least = vec4<i32>(0x7fffffff);
    var most = vec4<i32>(-0x7fffffff);
    var sum = vec4<f32>(0.0);
    for (var token = first; token < end; token++) {
        let at = run.base + head * params.k_head_stride + token * params.k_row_stride;
        var key = load_quad(k[at + c]);
        #if ROPE: key = rotated(key, load_quad(k[at + partner(c)]), run.position + i32(token), c);
        least = min(least, in_order(key));
        most = max(most, in_order(key));
        sum = clamp(sum + key, vec4<f32>(LOWEST), vec4<f32>(-LOWEST));
    }
    if lane == 0u {
        atomicStore(&farthest, 0u);
        atomicStore(&largest_mean, 0u);
        atomicStore(&largest_reach, 0u);
    }
    workgroupBarrier();
    var size = 0u;
    for (var i = 0u; i < 4u; i++) {
        size = max(size, max(bits_of(least[i]) & 0x7fffffffu, bits_of(most[i]) & 0x7fffffffu));
    }
    atomicMax(&farthest, size);
    workgroupBarrier();
    let highest = atomicLoad(&farthest);
    let exponent = max(i32(highest >> 23u) - 126, LEAST_EXPONENT);

    var means = vec4<i32>(0);
    for (var i = 0u; i < 4u; i++) {
        means[i] = quotient(rounded_even(bitcast<u32>(sum[i]), exponent), end - first);
        atomicMax(&largest_mean, u32(abs(means[i])));
    }
    workgroupBarrier();
    let mean_step = (atomicLoad(&largest_mean) + 126u) / 127u;
    var mean_codes = 0u;
    var reaches = vec4<u32>(0u);
    for (var i = 0u; i < 4u; i++) {
        let code = quotient(means[i], mean_step);
        let mean = code * i32(mean_step);
        let low = rounded_down(bits_of(least[i]), exponent);
        let high = -rounded_down(bits_of(most[i]) ^ 0x80000000u, exponent);
        reaches[i] = u32(max(high - mean, mean - low) + 1);
        mean_codes |= (bitcast<u32>(code) & 255u) << (8u * i);
        atomicMax(&largest_reach, reaches[i]);
    }
    workgroupBarrier();
    let reach_step = (atomicLoad(&largest_reach) + 254u) / 255u;
    var reach_codes = 0u;
    for (var i = 0u; i < 4u; i++) {
        reach_codes |= ((reaches[i] + reach_step - 1u) / reach_step) << (8u * i);
    }

    let at = run.words + head * params.head_stride + group * SUMMARY_WORDS;
    let none = highest == 0u;
    if lane < HEAD_QUADS {
        words[at + lane] = select(mean_codes, 0u, none);
        words[at + HEAD_QUADS + lane] = select(reach_codes, 0u, none);
    }
    if lane == 0u {
        words[at + 2u * HEAD_QUADS] = select(scaled(mean_step, exponent), 0u, none);
        words[at + 2u * HEAD_QUADS + 1u] = select(scaled(reach_step, exponent), 0u, none);
    }
}
