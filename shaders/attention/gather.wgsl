// gather: copies the rows of some blocks of a tensor into a packed one, or back. PrFlashAttention's
// "rows and columns" (arXiv 2410.18441).
//
//   packed[h, y] = whole[h, blocks[x / B]·B + x mod B − whole_first]
//   x = packed_first + y,  0 ≤ y < rows
//
// and with FLAG_SCATTER the other way round. Elements pass through as words, whatever their type.
//
// Shapes      whole (H, tokens, row_words) any strides · packed (H, ≥ rows, row_words) any strides
//             · blocks: ascending blocks of B tokens
// Workgroups  one per (head, COPIES words), numbered in one line and folded into x and y; one word
//             per invocation
// Barriers    none

#import shared/line

struct GatherParams {
    work_items: u32,          // workgroups with work
    tiles: u32,               // … per head
    rows: u32,
    row_words: u32,
    block_size: u32,          // B
    packed_first: u32,        // place of row 0 among the tokens of the blocks
    whole_first: u32,         // the token of row 0 of `whole`
    whole_base: u32,          // words, as all that follow
    whole_head_stride: u32,
    whole_row_stride: u32,
    packed_base: u32,
    packed_head_stride: u32,
    packed_row_stride: u32,
    flags: u32,               // FLAG_SCATTER
}

@group(0) @binding(0) var<uniform> params: GatherParams;
@group(0) @binding(1) var<storage, read> blocks: array<u32>;
@group(1) @binding(0) var<storage, read> source: array<u32>;
@group(1) @binding(1) var<storage, read_write> copy: array<u32>;

@compute @workgroup_size(COPIES)
fn gather(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let item = place_in_line(workgroup, workgroups);
    if item >= params.work_items {
        return;
    }
    let head = item / params.tiles;
    let word = (item % params.tiles) * COPIES + lane;
    let row = word / params.row_words;
    if row >= params.rows {
        return;
    }
    let place = params.packed_first + row;
    let token = blocks[place / params.block_size] * params.block_size + place % params.block_size - params.whole_first;
    let channel = word % params.row_words;
    let whole = params.whole_base + head * params.whole_head_stride + token * params.whole_row_stride + channel;
    let packed = params.packed_base + head * params.packed_head_stride + row * params.packed_row_stride + channel;
    if (params.flags & FLAG_SCATTER) != 0u {
        copy[whole] = source[packed];
    } else {
        copy[packed] = source[whole];
    }
}
