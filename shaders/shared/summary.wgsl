// The words of a group's summary, from the extremes and sums of its channels: the integers of
// src/sampling/content/packed.rs, which says why they are these. A lane has a quad of channels, and
// the workgroup all of them.

// Bits of the largest magnitude, which order as the numbers do; the largest mean and reach in
// units.
var<workgroup> farthest: atomic<u32>;
var<workgroup> farthest_mean: atomic<u32>;
var<workgroup> farthest_reach: atomic<u32>;

// A quad's words, and the two steps of the group.
struct SummaryQuad {
    means: u32,
    reaches: u32,
    of_means: f32,
    of_reaches: f32,
}

fn largest_of(numbers: vec4<u32>) -> u32 {
    return max(max(numbers.x, numbers.y), max(numbers.z, numbers.w));
}

// 2^x of −126 to 127.
fn power_of_two(x: i32) -> f32 {
    return bitcast<f32>(u32(x + 127) << 23u);
}

// A quotient by a positive number, or 0 by 0: to the nearest, away from 0 at a half.
fn rounded_quotient(x: vec4<i32>, by: u32) -> vec4<i32> {
    if by == 0u {
        return vec4<i32>(0);
    }
    let magnitude = vec4<i32>((2u * vec4<u32>(abs(x)) + by) / (2u * by));
    return select(magnitude, -magnitude, x < vec4<i32>(0));
}

// To be called by all lanes of a workgroup; one without channels gives zeros. `tokens` are at most
// 256.
fn summary_quad(lane: u32, least: vec4<f32>, largest: vec4<f32>, sums: vec4<f32>, tokens: u32) -> SummaryQuad {
    if lane == 0u {
        atomicStore(&farthest, 0u);
        atomicStore(&farthest_mean, 0u);
        atomicStore(&farthest_reach, 0u);
    }
    workgroupBarrier();
    atomicMax(&farthest, largest_of(bitcast<vec4<u32>>(max(abs(least), abs(largest)))));
    workgroupBarrier();
    let exponent = max(i32(atomicLoad(&farthest) >> 23u) - 126, SUMMARY_LEAST_EXPONENT);
    let to_units = power_of_two(SUMMARY_UNIT_BITS - exponent);
    let unit = power_of_two(exponent - SUMMARY_UNIT_BITS);
    let mean = rounded_quotient(vec4<i32>(round(sums * to_units)), tokens);
    atomicMax(&farthest_mean, largest_of(vec4<u32>(abs(mean))));
    workgroupBarrier();
    let of_means = (atomicLoad(&farthest_mean) + 126u) / 127u;
    let codes = rounded_quotient(mean, of_means);
    let centre = codes * i32(of_means);
    let low = vec4<i32>(floor(least * to_units));
    let high = vec4<i32>(ceil(largest * to_units));
    let zeros = (low == vec4<i32>(0)) & (high == vec4<i32>(0)) & (codes == vec4<i32>(0));
    let reach = vec4<u32>(max(high - centre, centre - low) + select(vec4<i32>(1), vec4<i32>(0), zeros));
    atomicMax(&farthest_reach, largest_of(reach));
    workgroupBarrier();
    let of_reaches = (atomicLoad(&farthest_reach) + 254u) / 255u;
    let reach_codes = (reach + vec4<u32>(max(of_reaches, 1u) - 1u)) / max(of_reaches, 1u);
    return SummaryQuad(
        pack4xI8(codes),
        pack4xU8(reach_codes),
        f32(of_means) * unit,
        f32(of_reaches) * unit,
    );
}
