// Rotation and bias: s = a(Δ)·⟨R_i q, R_j k⟩·scale − λ·m_h·c(Δ)·φ(Δ), with Δ the lag between the
// positions of query and key.
//
// Everything that needs more than f32 arithmetic was tabulated by the host, as quads: rotations
// (rope.wgsl), and steps rotations of the positions 0 … of a step of keys, without a temperature H
// at index i: φ(|i|), φ(|i − 1|), φ(|i − 2|), φ(|i − 3|), so that one load serves four keys in a
// row; near lags only, see phi_far slopes λ·m_h of four heads, in the unit of the kernel's scores

#import attention/params
#import attention/walk
#import attention/turn

fn query_position(sequence: Sequence, row: i32) -> i32 {
    if sequence.id_base != NO_TABLE {
        return i32(tables[sequence.id_base + u32(row)]);
    }
    return sequence.q_position + row;
}

fn key_position(sequence: Sequence, key: i32) -> i32 {
    if sequence.id_base != NO_TABLE {
        return i32(tables[sequence.id_base + sequence.q_len + u32(key)]);
    }
    return sequence.k_position + key;
}

#if PHI_HARMONIC
// H_min(|lag|, cap) for |lag| ≥ PHI_NEAR: with y = |lag| + ½,
// H = ln y + γ + 1/(24y²) − … = ½·ln(y² + 1/12) + γ to within 1e-8 there, and without a division.
fn phi_far(lag: i32) -> f32 {
    let y = f32(abs(lag)) + 0.5;
#if PHI_CAPPED
    return select(0.5 * log(y * y + 1.0 / 12.0) + EULER_GAMMA, params.phi_flat, u32(abs(lag)) >= params.phi_cap);
#else
    return (0.5 * LN_2) * log2(y * y + 1.0 / 12.0) + EULER_GAMMA;
#end
}

// φ(|lag|), φ(|lag − 1|), φ(|lag − 2|), φ(|lag − 3|), the lags of four keys in a row, near 0.
fn phi_window(lag: i32) -> vec4<f32> {
    // Below 0 the same numbers are there in reverse.
    let at = select(lag, 3 - lag, lag < 0);
    let window = position_table[params.phi_base + min(u32(at), PHI_WINDOWS - 1u)];
    return select(window, window.wzyx, lag < 0);
}
#end

#if WINDOWS
// Which of these the lags of a step of KEYS keys with all rows of a tile are. It is uniform over
// the workgroup.
const LAGS_ANY: u32 = 0u;   // by number
const LAGS_NEAR: u32 = 1u;  // in the windows
const LAGS_FAR: u32 = 2u;   // |lag| ≥ PHI_NEAR

fn lags_of(sequence: Sequence, rows: RowTile, key: i32) -> u32 {
    if sequence.id_base != NO_TABLE {
        return LAGS_ANY;
    }
    let at = sequence.k_position + key;
    let lowest = sequence.q_position + rows.first_row - at - i32(KEYS) + 1;
    let highest = sequence.q_position + rows.last_row - at;
    return select(LAGS_NEAR, LAGS_FAR, lowest >= i32(PHI_NEAR) || highest <= -i32(PHI_NEAR));
}
#end

// φ(|lag|): 0 where there is no bias.
fn phi_of(lag: i32) -> f32 {
#if PHI_HARMONIC
    if u32(abs(lag)) < PHI_NEAR {
        return phi_window(lag).x;
    }
    return phi_far(lag);
#end
    #if PHI_LINEAR: return f32(abs(lag));
#if PHI_LOG
    // ln(1 + x); near 0 by 2·artanh(x / (2 + x)), since 1 + x would round x away: four terms are
    // within 1e-8 of it there, relatively.
    let x = params.phi_rate * f32(abs(lag));
    let z = x / (2.0 + x);
    let w = z * z;
    let near = 2.0 * z * (1.0 + w * (1.0 / 3.0 + w * (1.0 / 5.0 + w / 7.0)));
    return select(log(1.0 + x), near, x < 0.25);
#end
    #if PHI_NONE: return 0.0;
}

// λ·m_h: 0 where there is no bias.
fn slope_of(head: u32) -> f32 {
#if BIASED
    return position_table[params.slope_base + head / 4u][head % 4u];
#else
    return 0.0;
#end
}

// What a slope is multiplied by in the score of a pair: c(Δ)·φ(Δ).
fn slope_factor(lag: i32, phi: f32) -> f32 {
#if FACTOR
    let distance = f32(abs(lag));
    return phi * (distance / (params.factor_length + distance));
#else
    return phi;
#end
}

// The score of a pair at a lag, from the inner product (capped, scaled) and φ.
fn positioned(product: f32, lag: i32, phi: f32, slope: f32) -> f32 {
    var score = product;
    var bias = slope * phi;
#if FACTOR
    let distance = f32(abs(lag));
    let whole = 1.0 / (params.factor_length + distance);
    score *= params.factor_length * whole;
    bias *= distance * whole;
#end
    return score - bias;
}
