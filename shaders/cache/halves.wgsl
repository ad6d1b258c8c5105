// f16 bits as integers, as src/cache/quantize.rs has them.

// e of |x| = m·2^e·2⁻²⁴.
fn exponent(half: vec4<u32>) -> vec4<u32> {
    return max((half >> vec4<u32>(10u)) & vec4<u32>(31u), vec4<u32>(1u)) - vec4<u32>(1u);
}

// m, of 11 bits.
fn significand(half: vec4<u32>) -> vec4<u32> {
    let hidden = select(vec4<u32>(0u), vec4<u32>(0x400u), (half & vec4<u32>(0x7c00u)) != vec4<u32>(0u));
    return (half & vec4<u32>(0x3ffu)) | hidden;
}

// ±m·2^(e − shift), halves away from zero.
fn aligned(half: vec4<u32>, shift: vec4<u32>) -> vec4<i32> {
    let m = significand(half);
    let e = exponent(half);
    let larger = max(e, shift);
    let drop = larger - e;
    let magnitude = vec4<i32>(((m << (larger - shift)) + ((vec4<u32>(1u) << drop) >> vec4<u32>(1u))) >> drop);
    return select(magnitude, -magnitude, (half & vec4<u32>(0x8000u)) != vec4<u32>(0u));
}
