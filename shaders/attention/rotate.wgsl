// rotate: rotary position embedding (Su et al. 2021, arXiv 2104.09864) in place, for queries or
// keys that are to lie in storage rotated.
//
//   (x_a, x_b) ← s·t·(x_a·cos pωᵢ − x_b·sin pωᵢ, x_a·sin pωᵢ + x_b·cos pωᵢ)
//
// for every pair i = (a, b) of the first r channels of a row at position p, with the temperature t
// that the table carries. s = 1; the inverse rotates by −p with s = 1/t².
//
// Shapes      tensor (batch, H, rows, D), any strides that keep its rows apart · channels r … D − 1
//             and rows of no run are not touched
// Runs        rows that follow each other, at positions that do (or at one); the rows of all runs
//             of a dispatch are numbered in one line
// Workgroups  one per (group of HEADS_EACH heads, INVOCATIONS of the line's rows × ROTATIONS),
//             numbered in one line and folded into x and y. A rotation is of a quad, or with pairs
//             in halves the two quads that hold its four pairs: nobody reads what another
//             invocation writes.
// Rounding    everything is in f32; a value is rounded to the storage type once, as it is written
// Barriers    none

#import shared/line
#import shared/search
#import shared/load_$(STORAGE)
#import shared/store_$(STORAGE)
#import attention/rope

struct RotateParams {
    work_items: u32,    // workgroups with work
    tiles: u32,         // … per group of heads
    rows: u32,          // of all runs
    runs: u32,
    heads: u32,
    head_stride: u32,   // quads
    row_stride: u32,
    rope_low: u32,      // quads of the position table
    rope_high: u32,
    scale: f32,         // s
}

struct RotateRun {
    base: u32,      // quads: its first row, in head 0
    first: u32,     // the number of that row: rows of the runs before
    position: i32,  // of that row
    step: i32,      // from one position to the next: 1 or 0, negative for the inverse
}

@group(0) @binding(0) var<uniform> params: RotateParams;
@group(0) @binding(1) var<storage, read> runs: array<RotateRun>;
@group(1) @binding(0) var<storage, read_write> tensor: array<OutputQuad>;

// Where an entry begins, for shared/search.wgsl.
fn begins_at(index: u32) -> u32 {
    return runs[index].first;
}

@compute @workgroup_size(INVOCATIONS)
fn rotate(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let item = place_in_line(workgroup, workgroups);
    if item >= params.work_items {
        return;
    }
    let place = (item % params.tiles) * INVOCATIONS + lane;
    let row = place / ROTATIONS;
    if row >= params.rows {
        return;
    }
    let run = runs[entry_of(row, params.runs)];
    let within = row - run.first;
    let position = run.position + run.step * i32(within);
    let c = place % ROTATIONS;
#if ROPE_HALF
    let by = rotation(position, 2u * c) * params.scale;
    let by_next = rotation(position, 2u * c + 1u) * params.scale;
#else
    let by = rotation(position, c) * params.scale;
#end
    let first_head = item / params.tiles * HEADS_EACH;
    let last_head = min(first_head + HEADS_EACH, params.heads);
    for (var head = first_head; head < last_head; head++) {
        let at = run.base + within * params.row_stride + head * params.head_stride + c;
#if ROPE_HALF
        // A pair has its channels in both quads: x and y of each.
        let x = load_quad(tensor[at]);
        let y = load_quad(tensor[at + HALF_QUADS]);
        let a = rotate_pairs(vec4<f32>(x.x, y.x, x.y, y.y), by);
        let b = rotate_pairs(vec4<f32>(x.z, y.z, x.w, y.w), by_next);
        tensor[at] = store_quad(vec4<f32>(a.xz, b.xz));
        tensor[at + HALF_QUADS] = store_quad(vec4<f32>(a.yw, b.yw));
#else
        tensor[at] = store_quad(rotate_pairs(load_quad(tensor[at]), by));
#end
    }
}
