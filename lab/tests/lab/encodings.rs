//! What prflash's tokenizers encode, encoded again by other people's programs from exported files:
//! the same ids, id for id.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::Result;
use prflash::subword::{Cost, MergeScore, Merges, MergesTrainer, Pattern, Tokenizer, Trainer, WordCounts};
use tiktoken_rs::CoreBPE;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Prose, code and what is hard to cut.
fn texts() -> Result<Vec<String>> {
    let novel = fs::read_to_string(root().join("fixtures/persuasion.txt"))?;
    let code = fs::read_to_string(root().join("src/subword/pretokenize/tests.rs"))?;
    let hard = "I'll don'T 'S  a\n\n b\t\tc\r\n\r\n x12345 ½Ⅷ٣ naïve Ünïcödé 日本語と한글 e\u{301} 👩🏽\u{200D}🚀 \u{3000} ... !!\n/";
    let runs = ["a", "ab", " ", "\n", "é", "!", "1"].map(|run| run.repeat(300)).join(" x");
    Ok(vec![novel[..60_000].to_owned(), code, hard.to_owned(), runs])
}

fn words(pattern: Pattern) -> Result<WordCounts> {
    let text = fs::read(root().join("fixtures/persuasion.txt"))?;
    Ok(WordCounts::from_text(&text[..], pattern)?)
}

/// By each pattern: cuts at the least cost by three kinds of it, merges by two scores.
fn tokenizers(pattern: Pattern) -> Result<Vec<Tokenizer>> {
    let words = words(pattern)?;
    let merges = MergesTrainer::new(1200)?.train(&words)?;
    let by_information = MergesTrainer::new(1200)?.with_score(MergeScore::MutualInformation).train(&words)?;
    let mut tokenizers = vec![Tokenizer::new(pattern, by_information)];
    for (cost, lambda) in
        [(Cost::Unigram, 0.0), (Cost::Unigram, 2.0), (Cost::InverseCount, 0.1), (Cost::Unit, 0.0)]
    {
        let trainer = Trainer::new(1200)?.with_cost(cost, lambda)?.with_rounds(2);
        let trained = trainer.train(&words, &merges.vocabulary()?, |_| ControlFlow::Continue(()))?;
        tokenizers.push(Tokenizer::new(pattern, trained.segmenter));
    }
    tokenizers.push(Tokenizer::new(pattern, merges));
    Ok(tokenizers)
}

#[test]
fn hugging_face_gives_the_same_ids_and_text() -> Result<()> {
    for pattern in Pattern::ALL {
        for tokenizer in tokenizers(pattern)? {
            let json = tokenizer.to_hugging_face()?;
            let theirs: tokenizers::Tokenizer = json.parse().map_err(anyhow::Error::msg)?;
            for text in texts()? {
                let ids = tokenizer.encode(&text);
                let encoded = theirs.encode(text.as_str(), false).map_err(anyhow::Error::msg)?;
                assert!(
                    encoded.get_ids() == ids,
                    "{pattern}: {}",
                    first_difference(&tokenizer, encoded.get_ids(), &ids)
                );
                assert_eq!(tokenizer.decode(&ids)?, text.as_bytes());
                assert_eq!(theirs.decode(&ids, false).map_err(anyhow::Error::msg)?, text);
            }
            // What that program writes again is read here.
            let again = theirs.to_string(false).map_err(anyhow::Error::msg)?;
            let read = Tokenizer::from_hugging_face(&again)?;
            assert_eq!(read.encode(&texts()?[0]), tokenizer.encode(&texts()?[0]));
        }
    }
    Ok(())
}

/// Every word of the corpus, not only those that a text of tokens shows, at more pieces.
#[test]
fn hugging_face_cuts_every_word_the_same() -> Result<()> {
    let words = words(Pattern::Gpt2)?;
    let merges = MergesTrainer::new(3000)?.train(&words)?;
    let trained = Trainer::new(3000)?.train(&words, &merges.vocabulary()?, |_| ControlFlow::Continue(()))?;
    let tokenizer = Tokenizer::new(Pattern::Gpt2, trained.segmenter);
    let theirs: tokenizers::Tokenizer = tokenizer.to_hugging_face()?.parse().map_err(anyhow::Error::msg)?;
    for (word, _) in words.iter() {
        let word = std::str::from_utf8(word)?;
        let encoded = theirs.encode(word, false).map_err(anyhow::Error::msg)?;
        assert_eq!(encoded.get_ids(), tokenizer.encode(word), "{word:?}");
    }
    Ok(())
}

#[test]
fn tiktoken_gives_the_same_ids() -> Result<()> {
    for pattern in Pattern::ALL {
        let words = words(pattern)?;
        for score in [
            MergeScore::PairCount,
            MergeScore::WordPiece,
            MergeScore::MutualInformation,
            MergeScore::Likelihood,
        ] {
            let merges = MergesTrainer::new(1200)?.with_score(score).train(&words)?;
            let mut file = Vec::new();
            merges.write_ranks(&mut file)?;
            assert_eq!(Merges::read_ranks(&file[..])?, merges);
            let ranks = merges.iter().map(<[u8]>::to_vec).zip(0..).collect();
            let theirs = CoreBPE::new(ranks, Default::default(), pattern.regex())?;
            let tokenizer = Tokenizer::new(pattern, merges);
            for text in texts()? {
                let (found, ids) = (theirs.encode_ordinary(&text), tokenizer.encode(&text));
                assert!(found == ids, "{pattern}, {score:?}: {}", first_difference(&tokenizer, &found, &ids));
            }
        }
    }
    Ok(())
}

/// Where two lists part, and what they spell there.
fn first_difference(tokenizer: &Tokenizer, theirs: &[u32], ours: &[u32]) -> String {
    let same = theirs.iter().zip(ours).take_while(|(a, b)| a == b).count();
    let from = same.saturating_sub(3);
    let spelled = |ids: &[u32]| {
        let pieces = ids[from.min(ids.len())..].iter().take(8);
        let piece =
            |&id: &u32| String::from_utf8_lossy(tokenizer.model().piece(id).unwrap_or_default()).into_owned();
        pieces.map(piece).collect::<Vec<_>>()
    };
    format!("from token {from} on theirs {:?}, ours {:?}", spelled(theirs), spelled(ours))
}
