// What row r of a lane comes to.
    if has_row$r {
        let kind = row_kind(maximum$r * LN_4, sum$r);
        let own_lse = (maximum$r + 0.5 * log2(sum$r)) * LN_4;
        let end = row_end(kind, sum$r, own_lse, params.first_head + head);
        let o_at = sequence.o_base + head * params.o_head_stride + u32(row$r) * params.o_row_stride;
        #for c in OWN_VALUE_QUADS: output[o_at + own_value + $cu] = store_quad(o$r_$c * end.normalizer);
#if SHARED
        let writes_lse = slice == 0u && (params.flags & FLAG_LSE) != 0u;
#else
        let writes_lse = (params.flags & FLAG_LSE) != 0u;
#end
        if writes_lse {
            let at = sequence.lse_base + head * params.lse_head_stride + u32(row$r);
            lse[at] = end.lse;
        }
    }
