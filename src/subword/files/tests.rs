use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use proptest::prelude::*;

use super::super::*;

const TEXT: &[u8] = include_bytes!("../../../fixtures/persuasion.txt");

fn words() -> WordCounts {
    WordCounts::from_text(&TEXT[..100_000], Pattern::Gpt2).unwrap()
}

fn merges() -> Merges {
    MergesTrainer::new(500).unwrap().train(&words()).unwrap()
}

fn segmenter(cost: Cost, lambda: f64, steps: Steps) -> Segmenter {
    let trainer = Trainer::new(500).unwrap().with_rounds(1);
    let start = merges().vocabulary().unwrap();
    let trained = trainer.train(&words(), &start, |_| ControlFlow::Continue(())).unwrap();
    let costs = Costs::new(cost, &trained.counts, lambda).unwrap();
    Segmenter::new(trained.segmenter.vocabulary().clone(), costs, steps).unwrap()
}

fn all() -> Vec<Tokenizer> {
    let two = Steps::AtMost(NonZeroUsize::new(2).unwrap());
    vec![
        Tokenizer::new(Pattern::Gpt2, segmenter(Cost::Unigram, 0.1, Steps::Unlimited)),
        Tokenizer::new(Pattern::Cl100k, segmenter(Cost::InverseCount, 1.0 / 3.0, two)),
        Tokenizer::new(Pattern::None, segmenter(Cost::Unit, 0.0, Steps::Fewest)),
        Tokenizer::new(Pattern::O200k, merges()),
        Tokenizer::new(Pattern::Whitespace, Merges::from_pairs([]).unwrap()),
    ]
}

fn written(tokenizer: &Tokenizer) -> Vec<u8> {
    let mut file = Vec::new();
    tokenizer.write(&mut file).unwrap();
    file
}

#[test]
fn own_files_come_back() {
    for tokenizer in all() {
        let file = written(&tokenizer);
        assert!(std::str::from_utf8(&file).is_ok());
        let read = Tokenizer::read(&file[..]).unwrap();
        assert!(read == tokenizer, "{}", tokenizer.pattern());
        assert_eq!(written(&read), file);
        assert_eq!(read.encode(TEXT), tokenizer.encode(TEXT));
    }
}

/// A change of any byte, a line less, a file cut off: refused with the line, whatever it is.
#[test]
fn changed_files_are_refused_with_the_line() {
    for tokenizer in all() {
        let file = written(&tokenizer);
        let step = (file.len() / 300).max(1);
        for at in (0..file.len()).step_by(step).chain(file.len() - 30..file.len()) {
            let mut changed = file.clone();
            changed[at] ^= 1;
            let error = Tokenizer::read(&changed[..]).unwrap_err();
            let message = error.to_string();
            let named = error.is_corrupt() && message.starts_with("corrupt data: line ");
            assert!(named || error.is_unknown_version(), "{at}: {message}");
            // All but the very last end of a line, which says nothing.
            let error = Tokenizer::read(&file[..at.min(file.len() - 2)]).unwrap_err();
            assert!(error.is_corrupt() && error.to_string().contains("line "), "{at}: {error}");
        }
    }
}

#[test]
fn reasons_are_given() {
    let merged = "prflash tokenizer 1\npattern gpt2\nmodel merges\n";
    let cut = "prflash tokenizer 1\npattern gpt2\nmodel segmenter\n";
    let cases = [
        ("", "line 1: expected prflash tokenizer, got the end of the file"),
        (
            "prflash cache 1\n",
            "line 1: expected \"prflash tokenizer\" and its value, got \"prflash cache 1\"",
        ),
        (&format!("{merged}pieces 255\n"), "line 4: expected at least 256 pieces, the bytes, got 255"),
        (&format!("{merged}pieces 257\n97 256\n"), "line 5: expected two ids below 256, got \"97 256\""),
        (
            &format!("{merged}pieces 258\n97 98\n97 98\n"),
            "line 6: pairs: expected no string twice, got that of piece 256 as 257 too",
        ),
        (&format!("{merged}pieces 256\nchecksum 00\n"), "line 5: the checksum of what was read is "),
        (&format!("{cut}cost fee\n"), "line 4: expected \"cost\" and its value, got \"cost fee\""),
        (&format!("{cut}cost unit\nscale 2\n"), "line 5: expected a scale of 1 for unit, got 2"),
        (&format!("{cut}cost unit\nscale 1\nlambda 1\n"), "line 6: lambda: expected 0 to 0, got 1"),
        (
            &format!("{cut}cost unit\nscale 1\nlambda 0\nsteps 0\n"),
            "line 7: expected unlimited, fewest or a number, got \"0\"",
        ),
        (
            &format!("{cut}cost unit\nscale 1\nlambda 0\nsteps 2\nties any\n"),
            "line 8: ties are broken by the longest last piece, got \"any\"",
        ),
    ];
    for (file, reason) in cases {
        let error = Tokenizer::read(file.as_bytes()).unwrap_err();
        assert!(error.is_corrupt(), "{error}");
        assert!(error.to_string().starts_with(&format!("corrupt data: {reason}")), "{error}\n{reason}");
    }
    let piece = |line: &str| {
        let file = format!(
            "{cut}cost unit\nscale 1\nlambda 0\nsteps 2\nties longest last piece\npieces 1\n{line}\n"
        );
        Tokenizer::read(file.as_bytes()).unwrap_err().to_string()
    };
    assert_eq!(piece("a 1"), "corrupt data: line 10: there is no tab");
    assert_eq!(
        piece("a\t67108864"),
        "corrupt data: line 10: expected a cost below 67108864, got \"67108864\""
    );
    assert!(piece("a\\z\t1").starts_with("corrupt data: line 10: expected one of the escapes"));
    assert!(piece("a\t1").contains("line 10: pieces: expected every single byte"), "{}", piece("a\t1"));
    let error = Tokenizer::read(&b"prflash tokenizer 2\n"[..]).unwrap_err();
    assert!(error.is_unknown_version(), "{error}");
    let behind = [&written(&all()[4])[..], b"more\n"].concat();
    let error = Tokenizer::read(&behind[..]).unwrap_err();
    assert!(
        error.to_string().ends_with("line 6: expected the end of the file behind the checksum"),
        "{error}"
    );
}

#[test]
fn hugging_face_files_come_back() {
    for tokenizer in all() {
        let json = match (tokenizer.to_hugging_face(), tokenizer.model()) {
            (Ok(json), _) => json,
            (Err(error), Model::Segmenter(segmenter)) => {
                assert!(matches!(segmenter.steps(), Steps::AtMost(_)));
                assert_eq!(error.argument(), Some("steps"));
                continue;
            }
            (Err(error), _) => panic!("{error}"),
        };
        let read = Tokenizer::from_hugging_face(&json).unwrap();
        assert_eq!(read.encode(TEXT), tokenizer.encode(TEXT));
        assert_eq!(read.pattern(), tokenizer.pattern());
        assert_eq!(read.to_hugging_face().unwrap(), json);
    }
    let error = Tokenizer::new(Pattern::Gpt2, segmenter(Cost::Unigram, 0.0, Steps::Fewest)).to_hugging_face();
    assert_eq!(error.unwrap_err().argument(), Some("steps"));
}

#[test]
fn other_hugging_face_files_are_refused_with_the_part() {
    let by_cost = Tokenizer::new(Pattern::Gpt2, segmenter(Cost::Unigram, 0.0, Steps::Unlimited));
    let by_merges = Tokenizer::new(Pattern::Gpt2, merges());
    let [by_cost, by_merges] = [by_cost, by_merges].map(|tokenizer| tokenizer.to_hugging_face().unwrap());
    let changes = [
        (&by_cost, "\"normalizer\":null", "\"normalizer\":{\"type\":\"NFC\"}", "normalizer: expected none"),
        (&by_cost, "\"added_tokens\":[]", "\"added_tokens\":[1]", "added_tokens: expected none"),
        (&by_cost, "\"use_regex\":true", "\"use_regex\":false", "pre_tokenizer: expected ByteLevel"),
        (
            &by_cost,
            "[\"Ā\",-",
            "[\"Ā\",-0.5],[\"Ā\",-",
            "model.vocab: entry 0: expected a score of an integer",
        ),
        (&by_cost, "[\"Ā\",", "[\"日\",", "model.vocab: entry 0: expected byte-level characters, got \"日\""),
        (&by_cost, "{", "[", "tokenizer.json: "),
        (&by_merges, "\"dropout\":null", "\"dropout\":0.1", "model.dropout: expected none"),
        (
            &by_merges,
            "\"ignore_merges\":false",
            "\"ignore_merges\":true",
            "model.ignore_merges: expected false",
        ),
        (&by_merges, "\"Ā\":0", "\"Ā\":1", "model.vocab: expected the bytes as ids 0 to 255"),
        (&by_merges, "[\"h\",\"e\"]", "[\"e\",\"h\"]", "model.merges: merge "),
    ];
    for (file, part, other, reason) in changes {
        assert!(file.contains(part), "{part}: {}", &file[..400]);
        let error = Tokenizer::from_hugging_face(&file.replacen(part, other, 1)).unwrap_err();
        assert!(error.is_corrupt(), "{error}");
        assert!(error.to_string().starts_with(&format!("corrupt data: {reason}")), "{error}\n{reason}");
    }
    // As versions before 0.20 wrote merges.
    let older = by_merges.replace("[\"h\",\"e\"]", "\"h e\"");
    assert!(older != by_merges && Tokenizer::from_hugging_face(&older).is_ok());
}

#[test]
fn ranks_are_refused_with_the_line() {
    let mut file = Vec::new();
    merges().write_ranks(&mut file).unwrap();
    let text = String::from_utf8(file).unwrap();
    let refused = |old: &str, new: &str| {
        assert!(text.contains(old), "{old}");
        let error = Merges::read_ranks(text.replacen(old, new, 1).as_bytes()).unwrap_err();
        assert!(error.is_corrupt(), "{error}");
        error.to_string()
    };
    assert_eq!(refused("AA== 0\n", "AA==0\n"), "corrupt data: line 1: there is no space");
    assert_eq!(refused("AA== 0\n", "AA== 1\n"), "corrupt data: line 1: expected the rank 0, got \"1\"");
    assert!(refused("AA== 0\n", "A!== 0\n").starts_with("corrupt data: line 1: \"A!==\" is not base 64"));
    assert_eq!(refused("AA== 0\n", "AQ== 0\n"), "corrupt data: line 1: expected the byte 0, got [1]");
    let line = |id: usize| text.lines().nth(id).unwrap();
    let other = format!("{} 256", "YWJjZA==");
    let message = refused(line(256), &other);
    assert!(message.starts_with("corrupt data: line 257: expected bytes of two pieces"), "{message}");
    assert!(refused(line(257), &line(256).replace(" 256", " 257")).starts_with("corrupt data: line 258: "));
    let error = Merges::read_ranks(&b"AA== 0\n"[..]).unwrap_err().to_string();
    assert_eq!(error, "corrupt data: line 2: expected one of the 256 bytes, got the end of the file");
    // bc is joined before ab, so abc by ab·c is never reached.
    let [a, b, c] = [b'a', b'b', b'c'].map(u32::from);
    let unreachable = Merges::from_pairs([(b, c), (a, b), (257, c)]).unwrap();
    let error = unreachable.write_ranks(Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "merges: piece 258, \"abc\", is encoded as [97, 256]");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever training makes can be written as ranks and comes back with the same pairs.
    #[test]
    fn trained_merges_come_back_from_ranks(
        words in prop::collection::vec(("[ab]{1,12}|[abc]{1,8}", 1u64..50), 1..12),
        score in prop::sample::select(vec![
            MergeScore::PairCount, MergeScore::WordPiece, MergeScore::MutualInformation, MergeScore::Likelihood,
        ]),
    ) {
        let words = WordCounts::from_counts(words).unwrap();
        let merges = MergesTrainer::new(290).unwrap().with_score(score).train(&words).unwrap();
        let mut file = Vec::new();
        merges.write_ranks(&mut file).unwrap();
        prop_assert_eq!(Merges::read_ranks(&file[..]).unwrap(), merges);
    }
}
