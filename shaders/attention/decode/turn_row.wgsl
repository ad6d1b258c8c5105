// A row of which each lane of four has a component of every quad, times W/√P: the Walsh–Hadamard
// transform of src/cache/rotated/hadamard.rs.
fn turn_$(side)(row: ptr<function, array<f32, $(quads)>>, lane: u32, odd: bool, high: bool) {
#if SUBGROUP_QUADS
    for (var c = 0u; c < $(quads); c++) {
        var x = (*row)[c];
        let beside = quadSwapX(x);
        x = select(x + beside, beside - x, odd);
        let below = quadSwapY(x);
        (*row)[c] = select(x + below, below - x, high);
    }
#else
    let first = lane / LANES_EACH * LANES_EACH;
    let signs = vec3<f32>(select(1.0, -1.0, odd), select(1.0, -1.0, high), select(1.0, -1.0, odd != high));
    for (var c = 0u; c < $(quads); c++) {
        parts[lane].x = (*row)[c];
        workgroupBarrier();
        let four = vec4<f32>(parts[first].x, parts[first + 1u].x, parts[first + 2u].x, parts[first + 3u].x);
        (*row)[c] = four.x + signs.x * four.y + signs.y * four.z + signs.z * four.w;
        workgroupBarrier();
    }
#end
    for (var half = 1u; half < cache.codings[$(number)].block_quads; half *= 2u) {
        for (var pair = 0u; pair < $(quads) / 2u; pair++) {
            let low = pair / half * 2u * half + pair % half;
            let a = (*row)[low];
            let b = (*row)[low + half];
            (*row)[low] = a + b;
            (*row)[low + half] = a - b;
        }
    }
    for (var c = 0u; c < $(quads); c++) {
        (*row)[c] *= $(scale);
    }
}
