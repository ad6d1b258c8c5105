// summarize: what is known of a group of keys in 8 bits: of each channel the mean, and how far from
// it the farthest key is (shared/summary.wgsl), the bits that the host writes from the same keys.
//
// Shapes      keys (batch, H_kv, rows, D), rotated as attention rotates them · words: of each group
//             D/4 of codes of means (i8), D/4 of codes of reaches (u8), the two steps as f32
// Runs        groups of one sequence that follow each other; the groups of all runs of a dispatch
//             are numbered in one line
// Workgroups  one per (key/value head, group of the line), numbered in one line and folded into x
//             and y; a lane has a quad of channels of all tokens
// Rounding    none but that of sums in f32, token after token, and of rotations
// Barriers    in summary_quad, which every lane reaches: only whole workgroups leave before it

#import shared/line
#import shared/search
#import shared/load_$(STORAGE)
#import shared/summary
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
    var least = vec4<f32>(0.0);
    var largest = vec4<f32>(0.0);
    var sum = vec4<f32>(0.0);
    if lane < HEAD_QUADS {
        least = vec4<f32>(-LOWEST);
        largest = vec4<f32>(LOWEST);
        for (var token = first; token < end; token++) {
            let at = run.base + head * params.k_head_stride + token * params.k_row_stride;
            var key = load_quad(k[at + lane]);
            #if ROPE: key = rotated(key, load_quad(k[at + partner(lane)]), run.position + i32(token), lane);
            least = min(least, key);
            largest = max(largest, key);
            // Means of the largest numbers are such numbers, not infinite.
            sum = clamp(sum + key, vec4<f32>(LOWEST), vec4<f32>(-LOWEST));
        }
    }
    let quad = summary_quad(lane, least, largest, sum, end - first);
    let at = run.words + head * params.head_stride + group * SUMMARY_WORDS;
    if lane < HEAD_QUADS {
        words[at + lane] = quad.means;
        words[at + HEAD_QUADS + lane] = quad.reaches;
    }
    if lane == 0u {
        words[at + 2u * HEAD_QUADS] = bitcast<u32>(quad.of_means);
        words[at + 2u * HEAD_QUADS + 1u] = bitcast<u32>(quad.of_reaches);
    }
}
