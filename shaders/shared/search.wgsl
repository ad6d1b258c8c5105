// Entries of a list, each of which begins where the one before it ends. Who imports this says in
// `begins_at` where an entry begins; the first begins at 0.

// The last of `count` entries that begins at or before a place.
fn entry_of(place: u32, count: u32) -> u32 {
    var own = 0u;
    var end = count;
    while end - own > 1u {
        let middle = (own + end) / 2u;
        if begins_at(middle) <= place {
            own = middle;
        } else {
            end = middle;
        }
    }
    return own;
}
