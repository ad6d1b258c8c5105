// A row of which each lane of four has eight channels of every 32, times W/√P: the Walsh–Hadamard
// transform of src/cache/rotated/hadamard.rs.
fn turn_$(side)(row: ptr<function, array<vec4<f32>, $(parts)>>, lane: u32, component: u32) {
    let block_quads = cache.codings[$(number)].block_quads;
    for (var t = 0u; t < $(parts); t++) {
        let x = (*row)[t];
        let pairs = vec4<f32>(x.x + x.y, x.x - x.y, x.z + x.w, x.z - x.w);
        (*row)[t] = vec4<f32>(pairs.xy + pairs.zw, pairs.xy - pairs.zw);
    }
    // Blocks of 8 and 16 channels end between lanes, larger ones between chunks of 32.
    for (var half = 1u; half < $(parts); half *= 2u) {
        if block_quads < select(8u, 2u, half == 1u) * half {
            continue;
        }
        for (var pair = 0u; pair < $(parts) / 2u; pair++) {
            let low = pair / half * 2u * half + pair % half;
            let a = (*row)[low];
            let b = (*row)[low + half];
            (*row)[low] = a + b;
            (*row)[low + half] = a - b;
        }
    }
    for (var far = 1u; far < LANES_EACH; far *= 2u) {
        if block_quads < 4u * far {
            continue;
        }
        let is_second = (component & far) != 0u;
        for (var t = 0u; t < $(parts); t++) {
            let x = (*row)[t];
#if SUBGROUP_QUADS
            var other: vec4<f32>;
            if far == 1u {
                other = quadSwapX(x);
            } else {
                other = quadSwapY(x);
            }
#else
            parts[lane] = x;
            workgroupBarrier();
            let other = parts[lane ^ far];
            workgroupBarrier();
#end
            (*row)[t] = select(x + other, other - x, is_second);
        }
    }
    for (var t = 0u; t < $(parts); t++) {
        (*row)[t] *= $(scale);
    }
}
