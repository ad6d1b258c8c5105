// Schedules and document masks. A schedule: one offset per (list group, query block) and one past
// the end, then (key block, bits of ln p) pairs. The order of a schedule's query blocks: their row
// numbers, longest lists first. A document mask: the first visible key and one past the last, for
// each query.

#import attention/params
#import shared/visible

@group(1) @binding(0) var<storage, read> tables: array<u32>;

// Which keys the query of a row sees, by its document mask too.
fn visible_keys(sequence: Sequence, row: i32) -> Visible {
    let kv_len = i32(sequence.kv_len);
    let visible = visible_at(row + kv_len - i32(sequence.q_len), kv_len);
    if sequence.document_base == NO_TABLE {
        return visible;
    }
    let at = sequence.document_base + 2u * u32(row);
    return Visible(max(visible.lo, i32(tables[at])), min(visible.hi, i32(tables[at + 1u])));
}

// The rows of a tile, and what they see. A kernel computes it from numbers that are uniform over
// the workgroup, so that list bounds are.
struct RowTile {
    first_position: i32,  // the position of lane 0; its row may be negative
    first_row: i32,       // the first and the last row that exist; none if first > last
    last_row: i32,
    any: Visible,         // keys that some row sees
    all: Visible,         // keys that every row sees
}

fn row_tile(sequence: Sequence, tile: u32) -> RowTile {
    let block_size = i32(params.block_size);
    let first_in_block = i32((tile % params.tiles_per_block) * ROWS);
    let query_block = i32(tile / params.tiles_per_block);
    let first_position = (sequence.first_block + query_block) * block_size + first_in_block;
    let last_position = first_position + min(i32(ROWS), block_size - first_in_block) - 1;
    let offset = i32(sequence.kv_len) - i32(sequence.q_len);
    let first_row = max(first_position - offset, 0);
    let last_row = min(last_position - offset, i32(sequence.q_len) - 1);
    var any = Visible(0, 0);
    var all = Visible(0, 0);
    if first_row <= last_row {
        let early = visible_keys(sequence, first_row);
        let late = visible_keys(sequence, last_row);
        any = Visible(early.lo, late.hi);
        all = Visible(late.lo, early.hi);
    }
    return RowTile(first_position, first_row, last_row, any, all);
}

// The part of a block list that a tile walks: entries first ≤ e < end, each a (key block, bits of
// ln p) pair at `pairs + 2·e`; or, without a list, the key blocks themselves.
struct BlockList {
    first: u32,
    end: u32,
    pairs: u32,
}

fn block_list(sequence: Sequence, tile: u32, head: u32, any: Visible) -> BlockList {
    if sequence.list_base == NO_TABLE {
        let block_size = i32(params.block_size);
        return BlockList(u32(any.lo / block_size), u32((max(any.hi, 0) + block_size - 1) / block_size), 0u);
    }
    let query_block = tile / params.tiles_per_block;
    let group = (params.first_head + head) / params.heads_per_list;
    let list = sequence.list_base + group * sequence.query_blocks + query_block;
    let pairs = sequence.list_base + params.list_groups * sequence.query_blocks + 1u;
    // What a device was to draw may not be there: whatever is, a list ends within the table.
    let room = (max(arrayLength(&tables), pairs) - pairs) / 2u;
    return BlockList(tables[list], min(tables[list + 1u], room), pairs);
}

// One entry of a list.
struct ListedBlock {
    keys: Visible,  // the keys of the block that the tile may see
    bias: f32,      // β·ln p
}

fn listed_block(sequence: Sequence, list: BlockList, entry: u32, any: Visible) -> ListedBlock {
    var block = entry;
    var bias = 0.0;
    if sequence.list_base != NO_TABLE {
        block = tables[list.pairs + 2u * entry];
        bias = params.beta * bitcast<f32>(tables[list.pairs + 2u * entry + 1u]);
    }
    let first = i32(block * params.block_size);
    return ListedBlock(Visible(max(first, any.lo), min(first + i32(params.block_size), any.hi)), bias);
}
