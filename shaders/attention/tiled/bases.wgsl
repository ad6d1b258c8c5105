// Where keys and values of the head begin.
#if CACHED
    let k_base = sequence.k_base + kv_head * cache.key_head_stride;
    let v_base = sequence.v_base + kv_head * cache.value_head_stride;
#else
    let k_base = sequence.k_base + kv_head * params.k_head_stride;
    let v_base = sequence.v_base + kv_head * params.v_head_stride;
#unless STAGED
#if WIDE
    let k_first = (k_base + own_head) / WIDE_QUADS;
    let v_first = (v_base + own_value) / WIDE_QUADS;
    let k_stride = params.k_row_stride / WIDE_QUADS;
    let v_stride = params.v_row_stride / WIDE_QUADS;
#else
    let k_first = k_base + own_head;
    let v_first = v_base + own_value;
    let k_stride = params.k_row_stride;
    let v_stride = params.v_row_stride;
#end
#end
#end
