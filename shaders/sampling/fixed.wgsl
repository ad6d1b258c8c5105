// Numbers of 64 bits as two words, the low one first, and exponentials and logarithms to base 2 in
// integers: src/sampling/content/fixed.rs.

// 2^(f/1024)·2³⁰, rounded, for f = 0 … 1023.
@group(1) @binding(0) var<storage, read> powers: array<u32>;

fn plus(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let low = a.x + b.x;
    return vec2<u32>(low, a.y + b.y + select(0u, 1u, low < a.x));
}

fn minus(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    return vec2<u32>(a.x - b.x, a.y - b.y - select(0u, 1u, a.x < b.x));
}

fn is_below(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.y < b.y || (a.y == b.y && a.x < b.x);
}

// Shifted right, by less than 64.
fn shifted_right(a: vec2<u32>, by: u32) -> vec2<u32> {
    let within = by & 31u;
    // A shift by 32 isn't one.
    let carried = select(a.y << ((32u - within) & 31u), 0u, within == 0u);
    let near = vec2<u32>((a.x >> within) | carried, a.y >> within);
    return select(near, vec2<u32>(near.y, 0u), by >= 32u);
}

// The product of two words.
fn product(a: u32, b: u32) -> vec2<u32> {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let one = (a >> 16u) * (b & 0xffffu);
    let other = (a & 0xffffu) * (b >> 16u);
    let middle = (low >> 16u) + (one & 0xffffu) + (other & 0xffffu);
    return vec2<u32>((low & 0xffffu) | (middle << 16u), (a >> 16u) * (b >> 16u) + (one >> 16u) + (other >> 16u) + (middle >> 16u));
}

// 2^x in 32.32 fixed point, of x up to 0.
fn exp2_of(x: i32) -> vec2<u32> {
    let power = powers[u32(x) & (OCTAVE - 1u)];
    // Two bits above the point, and as many below as there are octaves.
    let octaves = u32(-(x >> OCTAVE_BITS));
    if octaves <= 2u {
        let up = 2u - octaves;
        return vec2<u32>(power << up, (power >> 1u) >> (31u - up));
    }
    return vec2<u32>(select(power >> (octaves - 2u), 0u, octaves >= 34u), 0u);
}

// The last power up to a mantissa of 2³⁰ at least; the first one is.
fn power_below(mantissa: u32) -> u32 {
    var own = 0u;
    for (var step = OCTAVE / 2u; step > 0u; step /= 2u) {
        own += select(0u, step, powers[own + step] <= mantissa);
    }
    return own;
}

// The largest x with 2^x at most this number of 32.32 fixed point.
fn log2_of(value: vec2<u32>) -> i32 {
    if value.x == 0u && value.y == 0u {
        return -FARTHEST;
    }
    let top = select(firstLeadingBit(value.x), 32u + firstLeadingBit(value.y), value.y != 0u);
    var mantissa = value.x << (30u - min(top, 30u));
    if top > 30u {
        mantissa = shifted_right(value, top - 30u).x;
    }
    return (i32(top) - 32) * i32(OCTAVE) + i32(power_below(mantissa));
}

// log2 Σ 2^x from the largest x and Σ 2^(x − largest).
fn log2_sum(largest: i32, sum: vec2<u32>) -> i32 {
    return clamp(largest + log2_of(sum), -FARTHEST, FARTHEST);
}

// Sums over the lanes of a workgroup, in limbs of 24 bits, so that no sum of 64 of them overflows.
var<workgroup> limbs: array<atomic<u32>, 3>;

// The sum of the numbers of all lanes. Every lane must come here.
fn sum_over_lanes(lane: u32, own: vec2<u32>) -> vec2<u32> {
    workgroupBarrier();
    if lane < 3u {
        atomicStore(&limbs[lane], 0u);
    }
    workgroupBarrier();
    atomicAdd(&limbs[0], own.x & 0xffffffu);
    atomicAdd(&limbs[1], (own.x >> 24u) | ((own.y & 0xffffu) << 8u));
    atomicAdd(&limbs[2], own.y >> 16u);
    workgroupBarrier();
    let middle = atomicLoad(&limbs[1]);
    let sum = plus(vec2<u32>(atomicLoad(&limbs[0]), 0u), vec2<u32>(middle << 24u, middle >> 8u));
    return plus(sum, vec2<u32>(0u, atomicLoad(&limbs[2]) << 16u));
}
