// Rotated codes on their way into workgroup memory.

#import attention/levels

fn level(code: u32, bits: u32) -> f32 {
    switch bits {
        case 2u: {
            return level_2(code);
        }
        case 3u: {
            return level_3(code);
        }
        case 4u: {
            return level_4(code);
        }
        default: {
            return level_8(code);
        }
    }
}

#insert attention/tiled/coded_quad with side = key, words = key_words, padded = HEAD_PADDED, number = 0u
#insert attention/tiled/coded_quad with side = value, words = value_words, padded = VALUE_PADDED, number = 1u

// Four channels times the first two stages of W.
fn turned_quad(x: vec4<f32>) -> vec4<f32> {
    let pairs = vec4<f32>(x.x + x.y, x.x - x.y, x.z + x.w, x.z - x.w);
    return vec4<f32>(pairs.xy + pairs.zw, pairs.xy - pairs.zw);
}
