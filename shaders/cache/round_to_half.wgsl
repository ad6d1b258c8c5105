// f32 bits to f16 bits, rounded to nearest with ties to even, in integers: WGSL leaves the rounding
// of its own conversion open. Subnormal numbers are exact too; what is past 65,504 after rounding,
// and NaN, become infinite.
fn round_to_half(number: vec4<u32>) -> vec4<u32> {
    let sign = (number >> vec4<u32>(16u)) & vec4<u32>(0x8000u);
    let magnitude = number & vec4<u32>(0x7fffffffu);
    // Most are within what f16 has 11 bits for.
    if all(magnitude - vec4<u32>(0x38800000u) < vec4<u32>(0x477ff000u - 0x38800000u)) {
        let odd = (magnitude >> vec4<u32>(13u)) & vec4<u32>(1u);
        return sign | ((magnitude - vec4<u32>(0x38000000u - 0xfffu) + odd) >> vec4<u32>(13u));
    }
    // Below 2⁻¹⁴ the unit is 2⁻²⁴: the significand moves right until it counts those, and all of it
    // below 2⁻²⁵.
    let exponent = magnitude >> vec4<u32>(23u);
    let shift = vec4<u32>(126u) - clamp(exponent, vec4<u32>(101u), vec4<u32>(112u));
    let significand = (magnitude & vec4<u32>(0x7fffffu)) | vec4<u32>(0x800000u);
    let small = magnitude < vec4<u32>(0x38800000u);
    let whole = select(magnitude - vec4<u32>(0x38000000u), significand, small);
    let drop = select(vec4<u32>(13u), shift, small);
    let kept = whole >> drop;
    let half = vec4<u32>(1u) << (drop - vec4<u32>(1u));
    // Adding less than half a unit, or half of one where the number kept is odd, carries into it
    // just where it is to be rounded up.
    let rounded = (whole + half - vec4<u32>(1u) + (kept & vec4<u32>(1u))) >> drop;
    let finite = select(rounded, vec4<u32>(0u), exponent < vec4<u32>(102u));
    return sign | select(finite, vec4<u32>(0x7c00u), magnitude >= vec4<u32>(0x477ff000u));
}

// The largest magnitude of those that f16 has, in the order of numbers that round_to_half takes.
fn most_finite(number: vec4<u32>) -> u32 {
    let magnitude = number & vec4<u32>(0x7fffffffu);
    let finite = select(vec4<u32>(0u), magnitude, magnitude < vec4<u32>(0x477ff000u));
    return max(max(finite.x, finite.y), max(finite.z, finite.w));
}

fn half_of_most(most: u32) -> u32 {
    return round_to_half(vec4<u32>(most)).x;
}
