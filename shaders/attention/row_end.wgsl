// How a row ends: what its numerator is multiplied by, and its log-sum-exp. Where heads have sinks,
// each row is beside its head's; that of a row without keys is the log-sum-exp itself.

#import attention/params
#import attention/ending
#import attention/position_table
#import attention/sink

struct RowEnd {
    normalizer: f32,
    lse: u32,  // bits
}

// From the denominator of its weights and the natural log-sum-exp of its keys, read only where the
// row is finite; `head` is the head's place among all of the call.
fn row_end(kind: u32, denominator: f32, lse: f32, head: u32) -> RowEnd {
    var end = RowEnd(row_normalizer(kind, denominator), row_lse(kind, lse));
    if (params.flags & FLAG_SINKS) == 0u || kind == ROW_NAN {
        return end;
    }
    let sink = position_table[params.sink_base + head / 4u][head % 4u];
    let beside = beside_sink(lse, sink);
    if kind == ROW_FINITE {
        end.normalizer *= beside.x;
    }
    end.lse = bitcast<u32>(select(beside.y, sink, kind == ROW_EMPTY));
    return end;
}
