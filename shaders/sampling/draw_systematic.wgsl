// Systematic sampling: with one uniform number u per row and side, the block at distance d is kept
// where ⌊C(d) + u⌋ steps up, C(d) = p(0) + … + p(d − 1).

#import sampling/schedule

// ⌊C(d) + u⌋: the sum's high word and the carry of its low one.
fn whole(u: u32, d: i32) -> u32 {
    let low = distances[d].sum_low;
    return distances[d].sum_high + select(0u, 1u, low + u < u);
}

// The smallest distance in first..=last whose block makes ⌊C + u⌋ reach `target_whole`; `last`
// does.
fn first_reaching(u: u32, target_whole: u32, first: i32, last: i32) -> i32 {
    var low = first;
    var high = last;
    while low < high {
        let middle = (low + high) / 2;
        if whole(u, middle + 1) >= target_whole {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

fn count_drawn(row: Row) -> u32 {
    let u = uniform_number(row, PURPOSE);
    let v = uniform_number(row, PURPOSE + 1u);
    return whole(u, row.before.y) - whole(u, row.before.x) + whole(v, row.after.y) - whole(v, row.after.x);
}

fn fill_drawn(row: Row, first_at: u32) {
    var at = first_at;
    // Ascending blocks: descending distances before the diagonal, ascending ones after it. A step
    // needs a distance at least, which bounds each search; so a run of certain blocks takes no
    // search.
    let u = uniform_number(row, PURPOSE);
    let start = whole(u, row.before.x);
    var end = row.before.y;
    for (var level = whole(u, end); level > start; level--) {
        end = first_reaching(u, level, row.before.x + i32(level - start) - 1, end - 1);
        put(row, at, row.query_block - end, distances[end].ln_p);
        at++;
    }
    let v = uniform_number(row, PURPOSE + 1u);
    let stop = whole(v, row.after.y);
    var from_distance = row.after.x;
    for (var level = whole(v, from_distance); level < stop; level++) {
        let d = first_reaching(v, level + 1u, from_distance, row.after.y - i32(stop - level));
        put(row, at, row.query_block + d, distances[d].ln_p);
        at++;
        from_distance = d + 1;
    }
}
