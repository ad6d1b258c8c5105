//! The staircases that the cache's tests go through.

use prflash::cache::{Codec, Ladder, Staircase, StoredKeys};

/// A ladder that is known to be one.
pub fn ladder(steps: &[(u32, usize)], last: u32) -> Ladder {
    Ladder::new(steps, last).unwrap()
}

/// Keys before rotation, unless the staircase has summaries, or codes of rotated rows, which refuse
/// them.
pub fn unrotated_if_possible(staircase: &Staircase) -> StoredKeys {
    match (staircase.summaries(), staircase.codec()) {
        (None, Codec::MinMax) => StoredKeys::BeforeRotation,
        _ => StoredKeys::AfterRotation,
    }
}

/// Segments of 32 tokens, so that few tokens climb down many rungs.
pub fn short(staircase: Staircase) -> Staircase {
    staircase.with_segment(32).unwrap()
}

/// Nested, not nested, dropping, with many sinks, the presets; and sinks and residuals that end
/// anywhere; with summaries.
pub fn staircases() -> Vec<Staircase> {
    let nested = Staircase::new(ladder(&[(16, 1), (8, 1)], 4), ladder(&[(8, 1), (4, 2)], 2)).unwrap();
    let uneven = Staircase::new(ladder(&[(8, 1), (4, 1), (3, 1)], 2), ladder(&[(8, 2)], 3)).unwrap();
    let dropping = Staircase::new(ladder(&[(8, 1), (4, 2)], 0), ladder(&[(4, 3)], 0)).unwrap();
    let odd = [nested.clone().with_sinks(3), uneven.clone().with_residual(50).unwrap()];
    let summarized = [(nested.clone(), 16), (dropping.clone(), 32)];
    let summarized = summarized.map(|(staircase, tokens)| staircase.with_summaries(tokens).unwrap());
    let all = [
        nested,
        uneven,
        dropping.clone().with_sinks(40),
        Staircase::paper(),
        Staircase::recommended(),
        Staircase::kivi(2).unwrap(),
        Staircase::streaming(50).unwrap(),
        Staircase::plain(),
        dropping.with_sinks(41),
    ];
    all.into_iter().chain(odd).chain(summarized).map(short).collect()
}

/// With rotated codes: every width, with fine tokens and without, 16 bits before others, dropping,
/// sinks and residuals that end anywhere, summaries.
pub fn rotated_staircases() -> Vec<Staircase> {
    let rotated = |fine_tokens| Codec::Rotated { fine_tokens };
    let both = |keys, values| Staircase::new(keys, values).unwrap();
    let nested = both(ladder(&[(8, 1), (4, 2)], 2), ladder(&[(4, 1), (3, 1)], 2));
    let late = both(ladder(&[(16, 1), (8, 1)], 4), ladder(&[(8, 2)], 3));
    let dropping = both(ladder(&[(4, 1), (2, 1)], 0), ladder(&[(8, 2)], 0));
    let summarized = nested.clone().with_codec(rotated(3)).unwrap().with_summaries(16).unwrap();
    [
        nested.clone().with_codec(rotated(2)).unwrap().with_sinks(5),
        nested.with_codec(rotated(0)).unwrap(),
        late.with_codec(rotated(0)).unwrap().with_residual(50).unwrap(),
        dropping.with_codec(rotated(1)).unwrap().with_sinks(41),
        Staircase::plain().with_codec(rotated(3)).unwrap(),
        both(ladder(&[], 16), ladder(&[(8, 1)], 2)).with_codec(rotated(6)).unwrap(),
        both(ladder(&[(8, 1), (3, 1)], 2), ladder(&[], 16)).with_codec(rotated(1)).unwrap(),
        summarized,
    ]
    .map(short)
    .into()
}
