// What rotated codes mean (src/cache/rotated): levels of a normal distribution, and scales of rows.
// Levels are in units of 2⁻¹². At 4, 3 and 2 bits they are a unit times an odd polynomial of a
// code's distance from the middle, of which every step is exact. Where levels are summed up, the
// unit multiplies the sum or the weight, once for all of them.

#import attention/arena

#if LEVELS_2
fn level_2(code: u32) -> f32 {
    let x = f32(code) - 1.5;
    let u = x * x;
    return LEVEL_UNIT_2 * (x * (u + LEVEL_2_0));
}

fn units_2(codes: vec4<u32>) -> vec4<f32> {
    let x = vec4<f32>(codes) - vec4<f32>(1.5);
    let u = x * x;
    return x * (u + vec4<f32>(LEVEL_2_0));
}
#end

#if LEVELS_3
fn level_3(code: u32) -> f32 {
    let x = f32(code) - 3.5;
    let u = x * x;
    return LEVEL_UNIT_3 * (x * (u * (u + LEVEL_3_1) + LEVEL_3_0));
}

fn units_3(codes: vec4<u32>) -> vec4<f32> {
    let x = vec4<f32>(codes) - vec4<f32>(3.5);
    let u = x * x;
    return x * (u * (u + vec4<f32>(LEVEL_3_1)) + vec4<f32>(LEVEL_3_0));
}
#end

#if LEVELS_4
fn level_4(code: u32) -> f32 {
    let x = f32(code) - 7.5;
    let u = x * x;
    return LEVEL_UNIT_4 * (x * (u * (u + LEVEL_4_1) + LEVEL_4_0));
}

fn units_4(codes: vec4<u32>) -> vec4<f32> {
    let x = vec4<f32>(codes) - vec4<f32>(7.5);
    let u = x * x;
    return x * (u * (u + vec4<f32>(LEVEL_4_1)) + vec4<f32>(LEVEL_4_0));
}
#end

// At 8 bits there are too many for that.
const LEVEL_UNIT_8: f32 = 1.0;

fn level_8(code: u32) -> f32 {
    let index = select(127u - code, code - 128u, code >= 128u) & 127u;
    let level = f32((cache.levels[index / 8u][index % 8u / 2u] >> (16u * (index % 2u))) & 0xffffu);
    return select(-level, level, code >= 128u);
}

fn units_8(codes: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(level_8(codes.x), level_8(codes.y), level_8(codes.z), level_8(codes.w));
}

// What a row's scale stands for, in units of 2¹² as levels are of 2⁻¹²: 0 for scale 0.
fn number_of_scale(side: u32, scale: u32) -> f32 {
    let sixths = u32(i32(scale) + cache.codings[side].offset);
    let power = bitcast<f32>((sixths / 6u + 127u - 24u - 12u) << 23u);
    let number = bitcast<f32>(cache.codings[side].scales[sixths % 6u].z) * power;
    return select(number, 0.0, scale == 0u);
}

// Byte t of words.
fn byte_of(word: u32, index: u32) -> u32 {
    return (word >> (8u * (index % 4u))) & 0xffu;
}

fn key_scale(behind: u32, token: u32) -> f32 {
    return number_of_scale(0u, byte_of(key_words[behind + token / 4u], token));
}

fn value_scale(behind: u32, token: u32) -> f32 {
    return number_of_scale(1u, byte_of(value_words[behind + token / 4u], token));
}

// Entry `index` of the list of fine tokens, from the pack of the side that has one.
fn fine_token(of_keys: bool, key_behind: u32, value_behind: u32, index: u32) -> u32 {
    var word: u32;
    if of_keys {
        word = key_words[key_behind + cache.codings[0].list + index / 2u];
    } else {
        word = value_words[value_behind + cache.codings[1].list + index / 2u];
    }
    return (word >> (16u * (index % 2u))) & 0xffffu;
}
