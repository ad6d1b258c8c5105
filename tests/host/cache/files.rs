//! Saved sequences, and what is refused.

use super::noise;
use prflash::Shape;
use prflash::cache::SequenceId;
use prflash::cache::{Codec, HostCache, Staircase, StoredKeys};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use testkit::staircases::{rotated_staircases, short, staircases};

/// A saved cache is the same on every machine and in every later version.
#[test]
fn frozen_bytes() {
    let shape = Shape::new(2, 1, 0, 32).unwrap();
    let rows: Vec<f32> = (0..200 * 32u32).map(|i| (i * i % 997) as f32 / 64.0 - 7.0).collect();
    let hash = |staircase: Staircase| {
        let mut cache = HostCache::new(short(staircase), &shape, StoredKeys::AfterRotation).unwrap();
        let id = cache.add();
        cache.append(id, &rows, &rows).unwrap();
        let bytes = cache.save(id).unwrap();
        u64::from_le_bytes(*bytes.last_chunk().unwrap())
    };
    let summarized = staircases().into_iter().filter(|staircase| staircase.summaries().is_some());
    let first = staircases().into_iter().take(2);
    let rotated = rotated_staircases();
    let plain = rotated.iter().find(|staircase| staircase.summaries().is_none()).cloned();
    let both = rotated.iter().find(|staircase| staircase.summaries().is_some()).cloned();
    let all = first.chain(summarized.take(1)).chain(plain).chain(both);
    assert_eq!(all.map(hash).collect::<Vec<_>>(), FROZEN);
}

/// Two of version 1, one of version 2, one of version 3, one of version 4.
const FROZEN: [u64; 5] = [
    3_218_414_752_854_992_170,
    6_660_829_136_031_139_046,
    8_177_723_147_740_173_500,
    2_410_417_520_771_912_050,
    12_841_361_883_229_966_164,
];

#[test]
fn changed_bytes_are_refused() {
    let shape = Shape::new(1, 1, 0, 4).unwrap();
    let new =
        |staircase: &Staircase| HostCache::new(staircase.clone(), &shape, StoredKeys::AfterRotation).unwrap();
    for staircase in staircases().into_iter().chain(rotated_staircases()) {
        let mut cache = new(&staircase);
        let id = cache.add();
        let rows = noise(&mut SmallRng::seed_from_u64(6), 4 * 150);
        cache.append(id, &rows, &rows).unwrap();
        cache.truncate(id, 140).unwrap();
        let bytes = cache.save(id).unwrap();
        for cut in 0..bytes.len() {
            assert!(cache.restore(&bytes[..cut]).unwrap_err().is_corrupt());
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            let error = cache.restore(&changed).unwrap_err();
            // Another version that there is comes to the checksum.
            let version = u32::from_le_bytes(*changed[8..].first_chunk().unwrap());
            assert!(
                if !(1..=4).contains(&version) { error.is_unknown_version() } else { error.is_corrupt() },
                "{error}"
            );
        }
        let longer = [&bytes[..], &[0; 4]].concat();
        assert!(HostCache::open(&longer).unwrap_err().is_corrupt());
        assert_eq!(cache.sequences().count(), 1);

        let other = new(&staircase.clone().with_sinks(7)).restore(&bytes).unwrap_err();
        assert_eq!(other.argument(), Some("bytes"));
        let wide = Shape::new(1, 1, 0, 8).unwrap();
        let mut other = HostCache::new(staircase.clone(), &wide, StoredKeys::AfterRotation).unwrap();
        assert_eq!(other.restore(&bytes).unwrap_err().argument(), Some("bytes"));
        if staircase.summaries().is_none() {
            let mut other = HostCache::new(staircase.clone(), &shape, StoredKeys::BeforeRotation).unwrap();
            assert_eq!(other.restore(&bytes).unwrap_err().argument(), Some("bytes"));
        }
        let other = match staircase.codec() {
            Codec::Rotated { fine_tokens } => {
                staircase.clone().with_codec(Codec::Rotated { fine_tokens: fine_tokens ^ 4 })
            }
            _ => staircase.clone().with_summaries(8),
        };
        // A ladder that codes late has no fine tokens, and codes between extremes instead.
        let other = other.or_else(|_| staircase.clone().with_codec(Codec::MinMax)).unwrap();
        let mut other = new(&other);
        assert_eq!(other.restore(&bytes).unwrap_err().argument(), Some("bytes"));

        // What was restored goes on like what was saved.
        let copy = cache.restore(&bytes).unwrap();
        for id in [id, copy] {
            cache.append(id, &rows, &rows).unwrap();
        }
        assert!(cache.save(id).unwrap() == cache.save(copy).unwrap());
    }
}

#[test]
fn refused_data_leaves_no_trace() {
    let shape = Shape::new(1, 1, 0, 4).unwrap();
    for staircase in staircases().into_iter().chain(rotated_staircases()) {
        let mut cache = HostCache::new(staircase, &shape, StoredKeys::AfterRotation).unwrap();
        let id = cache.add();
        let rows = noise(&mut SmallRng::seed_from_u64(7), 4 * 100);
        cache.append(id, &rows, &rows).unwrap();
        let before = cache.save(id).unwrap();
        for bad in [f32::NAN, f32::INFINITY, -65_520.0] {
            let mut spoilt = rows.clone();
            spoilt[399] = bad;
            assert_eq!(cache.append(id, &rows, &spoilt).unwrap_err().argument(), Some("v"));
            assert_eq!(cache.append(id, &spoilt, &rows).unwrap_err().argument(), Some("k"));
        }
        assert!(cache.append(id, &rows, &rows[..396]).is_err());
        assert!(cache.truncate(id, 101).is_err() && cache.remove(SequenceId::new(5)).is_err());
        assert!(cache.save(id).unwrap() == before);
    }
}
