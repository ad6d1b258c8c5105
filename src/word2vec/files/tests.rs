use proptest::prelude::*;

use super::*;

const FORMATS: [Format; 2] = [Format::Text, Format::Binary];

fn written(vectors: &WordVectors, format: Format) -> Vec<u8> {
    let mut file = Vec::new();
    vectors.write(format, &mut file).unwrap();
    file
}

/// As the original tool writes: a line end behind each vector, in text a space before it.
fn original(vectors: &WordVectors, format: Format) -> Vec<u8> {
    let mut file = format!("{} {}\n", vectors.len(), vectors.dimension()).into_bytes();
    for (word, row) in vectors.iter() {
        file.extend_from_slice(format!("{word} ").as_bytes());
        for value in row {
            match format {
                Format::Text => file.extend_from_slice(format!("{value} ").as_bytes()),
                Format::Binary => file.extend_from_slice(&value.to_le_bytes()),
            }
        }
        file.push(b'\n');
    }
    file
}

fn bits(vectors: &WordVectors) -> Vec<u32> {
    vectors.values().iter().map(|value| value.to_bits()).collect()
}

fn three() -> WordVectors {
    let values = vec![0.1, -0.0, f32::MAX, f32::MIN_POSITIVE, 1.0 / 3.0, 1e-45];
    WordVectors::new(["the", "käse\u{a0}x", "\u{0}"], 2, values).unwrap()
}

/// The error of a file, which must be that it is corrupt.
#[track_caller]
fn corrupt(format: Format, file: &[u8]) -> String {
    let error = WordVectors::read(format, file).unwrap_err();
    assert!(error.is_corrupt(), "{error}");
    error.to_string().replace("corrupt data: ", "")
}

#[test]
fn both_formats_come_back_with_their_bits() {
    for vectors in [three(), WordVectors::new(Vec::<String>::new(), 7, vec![]).unwrap()] {
        for format in FORMATS {
            for file in [written(&vectors, format), original(&vectors, format)] {
                let read = WordVectors::read(format, &file[..]).unwrap();
                assert_eq!((read.words(), read.dimension()), (vectors.words(), vectors.dimension()));
                assert_eq!(bits(&read), bits(&vectors));
                let other = if format == Format::Text { Format::Binary } else { Format::Text };
                assert!(vectors.is_empty() || WordVectors::read(other, &file[..]).unwrap_err().is_corrupt());
            }
        }
    }
    let want = "3 2\nthe 0.1 -0.0\nkäse\u{a0}x 3.4028235e38 1.1754944e-38\n\u{0} 0.33333334 1e-45\n";
    assert_eq!(String::from_utf8(written(&three(), Format::Text)).unwrap(), want);
}

#[test]
fn files_that_lie_are_refused_with_the_line() {
    for (file, message) in [
        ("", "line 1: expected the number of words and that of a vector's numbers, got \"\""),
        ("2\n", "line 1: expected the number of words and that of a vector's numbers, got \"2\""),
        ("1 2 3\n", "line 1: expected the number of words and that of a vector's numbers, got \"1 2 3\""),
        ("-1 2\n", "line 1: expected the number of words and that of a vector's numbers, got \"-1 2\""),
        ("1 0\n", "line 1: expected vectors of at least one number"),
        (
            "9999999999 9999999999\n",
            "line 1: expected at most 4294967295 numbers, got 9999999999 words × 9999999999",
        ),
        ("0 9999999999\n", "line 1: expected at most 4294967295 numbers, got 0 words × 9999999999"),
        ("2 1\na 1\n", "line 3: expected 2 words, got the end behind 1"),
        ("1 1\na 1\nb 2\n", "line 3: expected the end behind 1 words"),
        ("1 2\na 1\n", "line 2: expected 2 numbers behind \"a\", got 1"),
        ("1 2\na 1 2 3 4\n", "line 2: expected 2 numbers behind \"a\", got more"),
        ("1 2\na 1 x\n", "line 2: expected finite numbers, got \"x\""),
        ("1 2\na 1 nan\n", "line 2: expected finite numbers, got \"nan\""),
        ("1 2\na 1 1e39\n", "line 2: expected finite numbers, got \"1e39\""),
        ("1 2\n 1 2\n", "line 2: it begins with no word"),
        ("1 2\n\n", "line 2: it begins with no word"),
        ("1 1\na 1", "line 2: the line has no end: the file is cut off"),
        ("2 1\na 1\na 2\n", "words: words 0 and 1 are both \"a\""),
    ] {
        assert_eq!(corrupt(Format::Text, file.as_bytes()), message);
    }
    assert!(corrupt(Format::Text, b"1 1\n\xff 1\n").starts_with("line 2: it is no UTF-8: "));
    // A promise of 16 GB takes no memory.
    assert_eq!(
        corrupt(Format::Text, b"4294967295 1\n"),
        "line 2: expected 4294967295 words, got the end behind 0"
    );
}

#[test]
fn files_that_lie_are_refused_with_the_byte() {
    let one = |value: f32| [b"1 1\na ".to_vec(), value.to_le_bytes().to_vec()].concat();
    let two = [one(1.0).replace_first(b'1', b'2'), b"\nb \0\0\0\0".to_vec()].concat();
    for (file, message) in [
        (one(f32::NAN), "byte 6: expected finite numbers, got NaN"),
        ([one(1.0), b"\n\n".to_vec()].concat(), "byte 11: expected the end behind 1 words"),
        ([one(1.0), b"b".to_vec()].concat(), "byte 10: expected the end behind 1 words"),
        (b"1 1\n\xff \0\0\0\0".to_vec(), "byte 4: word 0: \"\\xff\" is no UTF-8"),
        (b"1 1\n \0\0\0\0".to_vec(), "byte 4: word 0: expected a word without white space, got \"\""),
        (
            b"1 1\na\nb \0\0\0\0".to_vec(),
            "byte 4: word 0: expected a word without white space, got \"a\\nb\"",
        ),
        (b"1 1\nab".to_vec(), "byte 4: word 0: expected a word and a space"),
        (b"1 1\na \0\0".to_vec(), "byte 8: expected a vector of 4 bytes, got the end"),
        (b"1 4294967295\na \0\0".to_vec(), "byte 17: expected a vector of 17179869180 bytes, got the end"),
        (two.clone(), "byte 17: expected an end of line behind each vector, or behind none"),
    ] {
        assert_eq!(corrupt(Format::Binary, &file), message);
    }
    assert!(WordVectors::read(Format::Binary, &[two, b"\n".to_vec()].concat()[..]).is_ok());
    let long = [b"1 1\n".to_vec(), vec![b'a'; 1 << 17]].concat();
    assert_eq!(corrupt(Format::Binary, &long), "byte 4: word 0: expected a word and a space");
}

trait ReplaceFirst {
    fn replace_first(self, from: u8, to: u8) -> Self;
}

impl ReplaceFirst for Vec<u8> {
    fn replace_first(mut self, from: u8, to: u8) -> Self {
        let at = self.iter().position(|&byte| byte == from).unwrap();
        self[at] = to;
        self
    }
}

#[test]
fn files_are_replaced_whole() {
    let folder = std::env::temp_dir().join(format!("prflash-vectors-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["vectors.txt", "vectors.bin"] {
        let (path, format) = (folder.join(name), Format::of(name));
        std::fs::write(&path, "before").unwrap();
        three().save(&path, format).unwrap();
        assert_eq!(WordVectors::load(&path, format).unwrap(), three());
    }
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2);
    let missing = folder.join("none/vectors.txt");
    for error in [
        three().save(&missing, Format::Text).unwrap_err(),
        WordVectors::load(&missing, Format::Text).unwrap_err(),
    ] {
        assert!(error.is_io() && error.to_string().contains("vectors.txt"), "{error}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

fn finite() -> impl Strategy<Value = f32> {
    any::<u32>().prop_map(f32::from_bits).prop_filter("finite", |value| value.is_finite())
}

fn vectors() -> impl Strategy<Value = WordVectors> {
    (1usize..5, prop::collection::btree_set("[^ \t-\r]{1,6}", 0..6)).prop_flat_map(|(dimension, words)| {
        let values = prop::collection::vec(finite(), words.len() * dimension);
        let words: Vec<String> = words.into_iter().collect();
        values.prop_map(move |values| WordVectors::new(words.clone(), dimension, values).unwrap())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn anything_comes_back_and_no_part_of_it_does(vectors in vectors()) {
        for format in FORMATS {
            let file = written(&vectors, format);
            let read = WordVectors::read(format, &file[..]).unwrap();
            prop_assert_eq!(read.words(), vectors.words());
            prop_assert_eq!(bits(&read), bits(&vectors));
            prop_assert_eq!(written(&read, format), file.clone());
            let original = original(&vectors, format);
            let read = WordVectors::read(format, &original[..]).unwrap();
            prop_assert_eq!(bits(&read), bits(&vectors));
            for cut in 0..file.len() {
                prop_assert!(WordVectors::read(format, &file[..cut]).unwrap_err().is_corrupt(), "{}", cut);
            }
            // The original's form of a single vector without its last byte is gensim's.
            for cut in 0..original.len() - usize::from(vectors.len() == 1) {
                let error = WordVectors::read(format, &original[..cut]).unwrap_err();
                prop_assert!(error.is_corrupt(), "{}", cut);
            }
        }
    }

    /// Whatever is changed, there is a table of vectors or an error that says what is wrong.
    #[test]
    fn no_bytes_make_it_panic(
        vectors in vectors(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        noise in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        for format in FORMATS {
            let mut file = written(&vectors, format);
            for (at, byte) in &changes {
                let at = at.index(file.len());
                file[at] = *byte;
            }
            let heads: [&[u8]; 3] = [b"", b"2 1\n", b"1 2\n"];
            let noisy = heads.map(|head| [head, &noise[..]].concat());
            for bytes in noisy.into_iter().chain([file]) {
                if let Err(error) = WordVectors::read(format, &bytes[..]) {
                    prop_assert!(error.is_corrupt(), "{}", error);
                }
            }
        }
    }
}
