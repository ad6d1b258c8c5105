use std::fs;
use std::path::Path;

use fancy_regex::Regex;
use proptest::prelude::*;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use super::*;

fn regex(pattern: Pattern) -> Regex {
    Regex::new(pattern.regex()).unwrap()
}

/// As tiktoken publishes it: with quantifiers that give nothing back, which not every engine has.
const CL100K: &str = concat!(
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|",
    r"\s++$|\s*[\r\n]|\s+(?!\S)|\s"
);

fn words(pattern: Pattern, text: &str) -> Vec<&str> {
    pattern.split(text.as_bytes()).map(|word| std::str::from_utf8(word).unwrap()).collect()
}

fn by_regex<'a>(regex: &Regex, text: &'a str) -> Vec<&'a str> {
    regex.find_iter(text).map(|found| found.unwrap().as_str()).collect()
}

#[test]
fn names() {
    for pattern in Pattern::ALL {
        assert_eq!(pattern.to_string().parse::<Pattern>().unwrap(), pattern);
    }
    let error = "gpt9".parse::<Pattern>().unwrap_err();
    assert_eq!(error.argument(), Some("pattern"));
    let expected = r#"pattern: expected one of gpt2, cl100k, o200k, whitespace, none; got "gpt9""#;
    assert_eq!(error.to_string(), expected);
}

#[test]
fn tricky_cases() {
    use Pattern::{Cl100k, Gpt2, None, O200k, Whitespace};
    let cases: &[(Pattern, &str, &[&str])] = &[
        (Gpt2, "", &[]),
        (Gpt2, "I'll IT'S ''s", &["I", "'ll", " IT", "'", "S", " ''", "s"]),
        (Gpt2, "a  \n b\n\nc  ", &["a", "  \n", " b", "\n", "\n", "c", "  "]),
        (Gpt2, "\u{3000}x \u{A0} y", &["\u{3000}", "x", " \u{A0}", " y"]),
        (Gpt2, "e\u{301}1²½", &["e", "\u{301}", "1²½"]),
        (Cl100k, "I'LL 'ſ 'Ve", &["I", "'LL", " '", "ſ", " '", "Ve"]),
        (Cl100k, "x'ſ'l", &["x", "'ſ", "'l"]),
        (Cl100k, "1234567\t89", &["123", "456", "7", "\t", "89"]),
        (Cl100k, "a!\r\n\n b", &["a", "!\r\n\n", " b"]),
        (Cl100k, "a \n \n  b", &["a", " \n \n", " ", " b"]),
        // One word since the text ends.
        (Cl100k, "a \n ", &["a", " \n "]),
        (Cl100k, "\tif(x)", &["\tif", "(x", ")"]),
        (O200k, "a \n ", &["a", " \n", " "]),
        (O200k, "camelCaseHTMLParser", &["camel", "Case", "HTMLParser"]),
        (O200k, "HTML'S don'T", &["HTML'S", " don'T"]),
        (O200k, "AB日C日D", &["AB日C日", "D"]),
        // A mark before capitals: as a prefix it leaves nothing to the first alternative, and
        // gives way.
        (O200k, "\u{301}AB", &["\u{301}", "AB"]),
        (O200k, "\u{301}'s\u{301}", &["\u{301}'s", "\u{301}"]),
        (O200k, "a/b//\n/c", &["a", "/b", "//\n/", "c"]),
        (Whitespace, " a  b\n c\n\n", &[" a", " ", " b", "\n", " c", "\n\n"]),
        (Whitespace, "a\tb", &["a", "\t", "b"]),
        (None, "a b\r\n\nc", &["a b\r\n", "\n", "c"]),
    ];
    for &(pattern, text, expected) in cases {
        assert_eq!(words(pattern, text), expected, "{pattern} {text:?}");
        assert_eq!(by_regex(&regex(pattern), text), expected, "{pattern} {text:?} by the regex");
    }
}

/// The characters for which both Unicode versions, the scanners' and that of the regular
/// expressions, have a category, and the same.
fn settled_chars() -> Vec<char> {
    use super::classes::{self, of_char};
    let sets = [
        (classes::UPPER, r"[\p{Lu}\p{Lt}]"),
        (classes::LOWER, r"\p{Ll}"),
        (classes::CASELESS, r"[\p{Lm}\p{Lo}]"),
        (classes::MARK, r"\p{M}"),
        (classes::NUMBER, r"\p{N}"),
        (classes::WHITE, r"\s"),
    ]
    .map(|(class, set)| (class, Regex::new(set).unwrap()));
    let unassigned = Regex::new(r"\p{Cn}").unwrap();
    let (mut settled, mut moved) = (Vec::new(), Vec::new());
    for char in ('\0'..=char::MAX).filter(|char| char.general_category() != GeneralCategory::Unassigned) {
        let text = char.to_string();
        if unassigned.is_match(&text).unwrap() {
            continue;
        }
        let agree = |(class, set): &(_, Regex)| (of_char(char) & class != 0) == set.is_match(&text).unwrap();
        if sets.iter().all(agree) { settled.push(char) } else { moved.push(char) }
    }
    // The standard moves a character to another category now and then, never many.
    assert!(moved.len() < 20 && settled.len() > 150_000, "{} and {moved:?}", settled.len());
    settled
}

fn texts() -> impl Strategy<Value = String> {
    const SPACES: &str = concat!(
        " \t\u{B}\u{C}\u{85}\u{A0}\u{1680}\u{2000}\u{2009}\u{200A}\u{2028}\u{2029}\u{202F}",
        "\u{205F}\u{3000}"
    );
    const OTHERS: &str = concat!(
        "日本語אבªʰ한글\u{1C5}\u{1F88}ΣσςßſÉé\u{212A}٣४²½Ⅷ🦀👩🏽€…«»\0\u{7F}\u{FEFF}",
        "\u{301}\u{903}\u{20DD}\u{200D}\u{FE0F}"
    );
    let settled = settled_chars();
    let one_of = |chars: &str| {
        let chars: Vec<char> = chars.chars().collect();
        prop::sample::select(chars).prop_map(String::from)
    };
    let contractions = ["'s", "'T", "'ll", "'LL", "'lL", "'re", "'Ve", "'v", "'ſ", "'m", "'D", "''s", "'"];
    let piece = prop_oneof![
        4 => one_of("abzABZ"),
        2 => one_of("0189"),
        2 => one_of("!/.-_'\"()"),
        4 => one_of(" \r\n"),
        2 => one_of(SPACES),
        4 => one_of(OTHERS),
        2 => prop::sample::select(contractions.to_vec()).prop_map(str::to_owned),
        2 => prop::sample::select(settled).prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
}

#[test]
fn random_texts_are_cut_as_by_the_regexes() {
    let ours = Pattern::ALL.map(|pattern| (pattern, regex(pattern)));
    let published = [(Pattern::Cl100k, Regex::new(CL100K).unwrap())];
    let regexes: Vec<_> = ours.into_iter().chain(published).collect();
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000) };
    proptest!(config, |(text in texts())| {
        for (pattern, regex) in &regexes {
            prop_assert_eq!(words(*pattern, &text), by_regex(regex, &text), "{}", pattern);
        }
    });
}

#[test]
fn files_are_cut_as_by_the_regexes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files =
        ["README.md", "ARCHITECTURE.md", "BENCHMARKS.md", "Cargo.toml", "src/subword/pretokenize/tests.rs"];
    for file in files {
        let text = fs::read_to_string(root.join(file)).unwrap();
        for pattern in Pattern::ALL {
            // Not by `assert_eq`, which would print the file.
            assert!(words(pattern, &text) == by_regex(&regex(pattern), &text), "{pattern}, {file}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    /// Bytes of no character are as symbols. So a text in which each such byte is replaced by one
    /// has its words at the same places.
    #[test]
    fn bytes_of_no_character_are_symbols(text in prop::collection::vec(prop_oneof![
        2 => prop::sample::select(b"aB1 \n'!/s".to_vec()),
        1 => any::<u8>(),
        1 => prop::sample::select("🦀日é\u{3000}\u{301}".as_bytes().to_vec()),
    ], 0..30)) {
        let mut replaced = Vec::new();
        for chunk in text.utf8_chunks() {
            replaced.extend_from_slice(chunk.valid().as_bytes());
            replaced.resize(replaced.len() + chunk.invalid().len(), b'!');
        }
        for pattern in Pattern::ALL {
            prop_assert_eq!(pattern.split(&text).collect::<Vec<_>>().concat(), &text[..]);
            let lengths = |text| pattern.split(text).map(<[u8]>::len).collect::<Vec<_>>();
            prop_assert_eq!(lengths(&text), lengths(&replaced), "{}", pattern);
        }
    }

    /// A settled word stays, whatever follows.
    #[test]
    fn settled_words_stay(text in prop::collection::vec(prop::sample::select(
        "aA1 \n'slLv!/日\u{301}\u{3000}".as_bytes().to_vec()), 0..16), cut in 0usize..16) {
        let cut = cut.min(text.len());
        for pattern in Pattern::ALL {
            let whole: Vec<_> = pattern.split(&text).collect();
            let mut part = pattern.split(&text[..cut]);
            let settled: Vec<_> = std::iter::from_fn(|| part.next_settled()).collect();
            prop_assert!(whole.starts_with(&settled), "{pattern}: {settled:?} of {whole:?}");
            prop_assert_eq!([settled.concat(), part.rest().to_vec()].concat(), &text[..cut]);
        }
    }
}

/// No text makes a scanner look at its characters more than a few times each.
#[test]
fn time_is_linear() {
    let length = 200_000;
    let units = [
        "a", "A", "日", "\u{301}", "1", "!", "'", " ", "\n", "\u{3000}", "\u{301}A", "日A", "aA", " !", "! ",
        "\n ", " \n", "'s", "'l", "a'", "\u{301}!",
    ];
    let long = |unit: &str| unit.repeat(length / unit.len());
    let mut texts: Vec<Vec<u8>> = units.iter().map(|unit| long(unit).into_bytes()).collect();
    // Long runs behind something that makes a scanner look ahead, or before something that ends it.
    let between = [
        ("日", "A", ""),
        ("\u{301}", "A", "!"),
        ("\n", " ", "x"),
        ("", " ", "x"),
        ("\n", "\u{3000}", "x"),
        ("", "\n ", "x"),
    ];
    texts.extend(between.map(|(before, unit, after)| [before, &long(unit), after].concat().into_bytes()));
    texts.push(vec![0xFF; length]);
    texts.push(vec![0xF0; length]);
    for text in texts {
        for pattern in Pattern::ALL {
            let mut words = pattern.split(&text);
            let read: usize = words.by_ref().map(<[u8]>::len).sum();
            assert_eq!(read, text.len());
            let steps = words.text.steps;
            assert!(steps <= 12 * text.len(), "{pattern}: {steps} steps for {} bytes", text.len());
        }
    }
}
