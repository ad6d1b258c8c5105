// The steps of a block of keys.
#let whole_from = rows.all.lo
#let seen_from = own$r.lo
        let end_key = block.keys.hi;
        for (var j = block.keys.lo; j < end_key; j += i32(KEYS)) {
#insert attention/tiled/step
        }
