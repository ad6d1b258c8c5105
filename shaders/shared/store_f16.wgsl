// The output in f16 storage, two channels to a word: unpacking is core WGSL, so no device feature
// is needed.
alias OutputQuad = vec2<u32>;

// WGSL leaves pack2x16float of a number beyond f16 undefined, so those become infinities here, and
// a NaN stays one.
fn pack_f16(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let magnitude = bits & 0x7fffffffu;
    let sign = (bits >> 16u) & 0x8000u;
    if magnitude > 0x7f800000u {
        return 0x7e00u;
    }
    // 65520, half a unit beyond the largest f16, is where rounding to nearest gives infinity.
    if magnitude >= 0x477ff000u {
        return sign | 0x7c00u;
    }
    return pack2x16float(vec2<f32>(clamp(value, -65504.0, 65504.0), 0.0)) & 0xffffu;
}

fn store_quad(value: vec4<f32>) -> OutputQuad {
    return vec2<u32>(pack_f16(value.x) | (pack_f16(value.y) << 16u), pack_f16(value.z) | (pack_f16(value.w) << 16u));
}
