//! Mutants of the kernels that fill a cache of rotated codes, whose words are the host's to the
//! bit, and of attention over it.

use super::cache::{DIMS, TOKENS, attends, fills};
use crate::attention::kernels::shapes::{Decode, Kernel, Tile};
use crate::attention::kernels::variant::Variant;
use crate::cache::gpu::programs::CacheMove;
use crate::cache::gpu::variant::CacheVariant;
use crate::cache::{Codec, Ladder, Staircase};
use crate::layout::DType;
use crate::runtime::testing::{Change, device, survivors};

/// Through all widths, with two fine tokens, and sinks that end within a step.
fn staircase() -> Staircase {
    let keys = Ladder::new(&[(8, 1), (4, 1)], 2).unwrap();
    let values = Ladder::new(&[(8, 1)], 3).unwrap();
    let staircase = Staircase::new(keys, values).unwrap().with_segment(64).unwrap().with_sinks(3);
    staircase.with_codec(Codec::Rotated { fine_tokens: 2 }).unwrap()
}

/// Keys whose blocks are shared by as many lanes as there may be, and values with a block a quad.
const WIDE: [usize; 2] = [256, 36];

#[test]
fn every_mutant_of_moves_to_rotated_codes_is_caught() {
    let Some(context) = device("mutants of moves to rotated codes") else { return };
    let agrees = fills(&context, staircase(), WIDE);
    let in_encode: &[Change] = &[
        ("means are of fine tokens, too", "if !is_fine(token) {", "if token < cache.segment {"),
        ("means are rounded towards 0", "(u32(abs(sum[i])) + count / 2u)", "u32(abs(sum[i]))"),
        ("halves are rounded down", "(magnitude + ((1u << drop) >> 1u)) >> drop", "magnitude >> drop"),
        ("means are added", "x000 -= centre[quad000];", "x000 += centre[quad000];"),
        (
            "the largest key is one of the first tokens",
            "most = max(most, parts[other]);",
            "most = max(most, parts[0]);",
        ),
        ("blocks aren't summed across all lanes", "if spread > 4u {", "if spread > 8u {"),
        (
            "blocks aren't summed across lanes",
            "if spread > 1u {\n            {",
            "if spread > 8u {\n            {",
        ),
        ("quads stay with their lanes", "let within = team.own % spread;", "let within = 0u;"),
        ("quads side by side aren't summed", "if block_quads > 1u {", "if block_quads > 64u {"),
        ("quads two apart aren't summed", "if block_quads > 2u {", "if block_quads > 64u {"),
        ("quads four apart aren't summed", "if block_quads > 4u {", "if block_quads > 64u {"),
        ("sinks are coded", "sum != 0u && token >= skipped", "sum != 0u"),
        ("a sixth of an octave is too wide", "mantissa >= 3037000500u", "mantissa >= 3826380859u"),
        ("scales don't know the unit", "6 * i32(shift)", "0 * i32(shift)"),
        (
            "a number on a threshold is below it",
            "threshold(above[i] + step - 1u) <= number[i]",
            "threshold(above[i] + step - 1u) < number[i]",
        ),
        (
            "a number on a threshold is below it, of few bits",
            "vec4<u32>(threshold(i * cell - 1u)) <= number",
            "vec4<u32>(threshold(i * cell - 1u)) < number",
        ),
        ("negative numbers have codes of positive ones", "127u - above, y <", "128u + above, y <"),
        (
            "negative numbers have codes of positive ones, of few bits",
            "half - 1u - above, y <",
            "half + above, y <",
        ),
        ("fine tokens have the largest values", "of_tokens[other] < rank ||", "of_tokens[other] > rank ||"),
        ("sizes are those of keys", "values.source = own.row;", ""),
        ("sizes are those of other tokens", "values.input = own.ring;", ""),
        ("fine tokens are listed in one place", "index += of_tokens[other];", ""),
        ("a token more is fine", "before < cache.fine_tokens", "before <= cache.fine_tokens"),
        (
            "a code that two words share loses its rest",
            "return select(0u, four >> (4u * bits - left), left > 0u);",
            "return 0u;",
        ),
    ];
    let in_step_down: &[Change] = &[(
        "rotated codes step down as others do",
        "(flags & FLAG_SHIFT) != 0u",
        "(flags & FLAG_SHIFT) == 1u",
    )];
    for (of, changes) in [(CacheMove::Encode(DType::F32), in_encode), (CacheMove::StepDown, in_step_down)] {
        let survivors = survivors(&context, of, changes, &agrees);
        assert!(survivors.is_empty(), "not caught: {survivors:#?}");
    }
    // Of few channels lanes read several keys at a time.
    let agrees = fills(&context, staircase(), DIMS);
    let change = ("means are of one key of these", "numbers[team * quads + lane]", "numbers[lane]");
    let survivors = survivors(&context, CacheMove::Encode(DType::F32), &[change], &agrees);
    assert!(survivors.is_empty(), "not caught: {survivors:#?}");
}

#[test]
fn every_mutant_of_attention_over_rotated_codes_is_caught() {
    let Some(context) = device("mutants of attention over rotated codes") else { return };
    let agrees = attends(&context, staircase(), TOKENS - 30);
    let over = |widths| Some(CacheVariant { widths, group: 0, rotate_keys: false });
    let split = Kernel::Decode(Decode::new(1, false).unwrap());
    let tiled = Kernel::Tiled(Tile::new(1, CacheVariant::KEYS, true).unwrap());
    let variant = |kernel, widths| Variant { cache: over(widths), ..Variant::new(kernel, DType::F32, DIMS) };
    let widths = [1 << 8 | 1 << 4 | 1 << 2, 1 << 8 | 1 << 3];
    let in_split: &[Change] = &[
        ("queries aren't turned", "if coded_keys != turned_queries {", "if cache.segment == 0u {"),
        (
            "outputs aren't turned on the way",
            "if coded_values != turned_outputs {",
            "if cache.segment == 0u {",
        ),
        ("outputs aren't turned back", "if turned_outputs {", "if cache.segment == 0u {"),
        ("keys have no mean", "s0 = s0 * of_key + base0;", "s0 = s0 * of_key;"),
        (
            "keys have the first one's scale",
            "of_key = key_scale(key_behind, within);",
            "of_key = key_scale(key_behind, 0u);",
        ),
        ("values have no scale", "let weight0 = p0 * of_value;", "let weight0 = p0;"),
        ("fine tokens count twice", "token = select(token, -1, within == entry);", ""),
        (
            "fine tokens are left out",
            "step < steps + (fine_tokens + CACHE_KEYS - 1u) / CACHE_KEYS",
            "step < steps",
        ),
        (
            "fine tokens have the first one's codes",
            "let place = min(index, fine_tokens - 1u);",
            "let place = 0u;",
        ),
        ("scales are of the octave above", "sixths / 6u + 127u", "sixths / 6u + 128u"),
        ("levels are of one sign", "return select(-level, level, code >= 128u);", "return level;"),
        (
            "a level at 2 bits is that of another width",
            "vec4<f32>(codes) - vec4<f32>(1.5)",
            "vec4<f32>(codes) - vec4<f32>(1.0)",
        ),
        ("queries become longer", "(*row)[t] *= HEAD_TURN;", ""),
        ("teams weigh alike", "exp2(2.0 * (maximum0 - highest))", "1.0"),
        ("a team is left out", "shares[share + 3u * LANES_EACH];", "0.0;"),
        ("outputs keep their scale where a maximum rises", "if rises {", "if token < -2 {"),
        ("levels at 4 bits have those of 3 bits' unit", "* LEVEL_UNIT_4;", "* LEVEL_UNIT_3;"),
        ("a row sees tokens before the run", "max(own0.lo, i32(first))", "own0.lo"),
    ];
    let in_tiled: &[Change] = &[
        ("keys have no mean", "staged_key(t, c) + Quad(mean)", "staged_key(t, c)"),
        ("keys aren't turned back", "half < cache.codings[0].block_quads", "half < 0u"),
        (
            "fine keys have other codes",
            "row = behind + cache.codings[0u].fine + index * (HEAD_PADDED / 4u);",
            "row = behind + cache.codings[0u].fine;",
        ),
        (
            "fine values have other codes",
            "row = behind + cache.codings[1u].fine + index * (VALUE_PADDED / 4u);",
            "row = behind + cache.codings[1u].fine;",
        ),
        (
            "a level at 3 bits is that of another width",
            "let x = f32(code) - 3.5;",
            "let x = f32(code) - 3.0;",
        ),
        ("quads aren't turned", "pairs.xy - pairs.zw", "pairs.xy + pairs.zw"),
    ];
    for (of, changes) in [(variant(split, widths), in_split), (variant(tiled, [0; 2]), in_tiled)] {
        let survivors = survivors(&context, of, changes, || agrees(of.kernel));
        assert!(survivors.is_empty(), "not caught: {survivors:#?}");
    }
}
