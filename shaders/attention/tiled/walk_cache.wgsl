// The steps of a block of keys in a staircase cache: run by run (cache.wgsl), from a multiple of
// CACHE_KEYS on. What lies before the run is computed and not seen.
#let whole_from = max(rows.all.lo, first_key)
#let seen_from = max(own$r.lo, first_key)
        var next_key = max(block.keys.lo, 0);
        while next_key < block.keys.hi {
        let first_key = next_key;
        let run = run_at(u32(first_key), sequence.segments);
        let end_key = min(i32(run.end), block.keys.hi);
        next_key = end_key;
        if run.keys.bits == 0u {
            continue; // dropped
        }
        for (var j = first_key / i32(CACHE_KEYS) * i32(CACHE_KEYS); j < end_key; j += i32(KEYS)) {
#insert attention/tiled/step
        }
        }
