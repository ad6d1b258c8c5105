// The keys of a tile, and which queries may see them.

#import attention/walk

struct KeyTile {
    first: i32,  // none if first > last
    last: i32,
    block: u32,  // the key block of which they are
    rows: Visible,  // queries that may see one of them, by their positions
}

fn key_tile(sequence: Sequence, tile: u32) -> KeyTile {
    let block = tile / params.tiles_per_block;
    let in_block = (tile % params.tiles_per_block) * ROWS;
    let first = i32(block * params.block_size + in_block);
    let end = min(first + i32(min(ROWS, params.block_size - in_block)), i32(sequence.kv_len));
    let offset = i32(sequence.kv_len) - i32(sequence.q_len);
    var lo = 0;
    var hi = i32(sequence.q_len);
    if (params.flags & FLAG_WINDOW) != 0u {
        lo = max(lo, first - i32(params.window) + 1 - offset);
        hi = min(hi, end - 1 + i32(params.window) - offset);
    }
    if (params.flags & FLAG_CAUSAL) != 0u {
        lo = max(lo, first - offset);
    }
    return KeyTile(first, end - 1, block, Visible(lo, hi));
}

// The part of a transposed list that a tile walks, or one entry without a list.
fn query_list(sequence: Sequence, keys: KeyTile, head: u32) -> BlockList {
    if sequence.list_base == NO_TABLE {
        return BlockList(0u, 1u, 0u);
    }
    let key_blocks = (sequence.kv_len + params.block_size - 1u) / params.block_size;
    let group = (params.first_head + head) / params.heads_per_list;
    let list = sequence.list_base + group * key_blocks + keys.block;
    let pairs = sequence.list_base + params.list_groups * key_blocks + 1u;
    return BlockList(tables[list], tables[list + 1u], pairs);
}

// One entry of it: rows of queries, and β·ln p.
fn listed_queries(sequence: Sequence, keys: KeyTile, list: BlockList, entry: u32) -> ListedBlock {
    if sequence.list_base == NO_TABLE {
        return ListedBlock(keys.rows, 0.0);
    }
    let query_block = i32(tables[list.pairs + 2u * entry]);
    let bias = params.beta * bitcast<f32>(tables[list.pairs + 2u * entry + 1u]);
    let offset = i32(sequence.kv_len) - i32(sequence.q_len);
    let first = (sequence.first_block + query_block) * i32(params.block_size) - offset;
    return ListedBlock(Visible(max(first, keys.rows.lo), min(first + i32(params.block_size), keys.rows.hi)), bias);
}
