// Which keys a query sees by its position alone: lo ≤ j < hi. Both ascend with the position. The
// same as Attention::visible in Rust. Who imports this has flags and a window in its params.

struct Visible {
    lo: i32,
    hi: i32,
}

fn visible_at(position: i32, kv_len: i32) -> Visible {
    var lo = 0;
    var hi = kv_len;
    if (params.flags & FLAG_CAUSAL) != 0u {
        hi = min(position + 1, kv_len);
    }
    if (params.flags & FLAG_WINDOW) != 0u {
        lo = max(position - i32(params.window) + 1, 0);
        hi = min(position + i32(params.window), hi);
    }
    return Visible(lo, hi);
}
