// Keys and values in a pool of pages: token t of a sequence lies in row t % page_size of page
// tables[page_base + t / page_size], where the batch entries of k and v are pages.

#import attention/params
#import attention/walk

// Where a key's row lies in the pool.
struct PagePlace {
    page: u32,
    row: u32,
}

fn page_place(sequence: Sequence, key: u32) -> PagePlace {
    let token = sequence.kv_start + key;
    return PagePlace(tables[sequence.page_base + token / params.page_size], token % params.page_size);
}

// Quads from the first row of the head to that of a key, and to that of its value.
fn paged_key(sequence: Sequence, key: u32) -> u32 {
    let place = page_place(sequence, key);
    return place.page * params.k_page_stride + place.row * params.k_row_stride;
}

fn paged_value(sequence: Sequence, key: u32) -> u32 {
    let place = page_place(sequence, key);
    return place.page * params.v_page_stride + place.row * params.v_row_stride;
}
