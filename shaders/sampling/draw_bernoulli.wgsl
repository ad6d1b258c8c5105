// Bernoulli sampling: the block J at distance d is kept where its own uniform number, pcg_hash(u ⊕
// J), is below p(d).

#import sampling/schedule

fn is_kept(u: u32, block: i32, d: i32) -> bool {
    // ln p = 0 is p = 1, whose low word is 0.
    return distances[d].ln_p == 0u || pcg_hash(u ^ u32(block)) < distances[d].p_low;
}

fn count_drawn(row: Row) -> u32 {
    let u = uniform_number(row, PURPOSE);
    var count = 0u;
    for (var d = row.before.x; d < row.before.y; d++) {
        count += select(0u, 1u, is_kept(u, row.query_block - d, d));
    }
    for (var d = row.after.x; d < row.after.y; d++) {
        count += select(0u, 1u, is_kept(u, row.query_block + d, d));
    }
    return count;
}

fn fill_drawn(row: Row, first_at: u32) {
    let u = uniform_number(row, PURPOSE);
    var at = first_at;
    for (var d = row.before.y - 1; d >= row.before.x; d--) {
        if is_kept(u, row.query_block - d, d) {
            put(row, at, row.query_block - d, distances[d].ln_p);
            at++;
        }
    }
    for (var d = row.after.x; d < row.after.y; d++) {
        if is_kept(u, row.query_block + d, d) {
            put(row, at, row.query_block + d, distances[d].ln_p);
            at++;
        }
    }
}
