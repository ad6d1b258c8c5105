//! The passkey test: a number hidden in a long text, asked for at its end (after Mohtashami and
//! Jaggi, arXiv 2305.16300, appendix).
//!
//! The answer is read along with the prompt, and counts as right if each of its tokens is the
//! likeliest one: exactly when the model, left alone, would have written it.

use std::ops::Range;
use std::time::Instant;

use anyhow::{Result, ensure};
use candle_core::{D, IndexOp};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::attend::Attend;
use crate::backend::Loaded;
use crate::perplexity::negative_log_likelihoods;
use crate::results::{Fields, Measured, Source};
use crate::tokenizer::Tokenizer;

/// How deep the number is hidden, in percent of the text in front of the question.
pub const DEPTHS: [usize; 5] = [10, 30, 50, 70, 90];

/// One prompt with its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// All tokens: BOS if the model wants one, text, number, text, question, answer.
    pub ids: Vec<u32>,
    /// The answer among them.
    pub answer: Range<usize>,
    /// The number to be found.
    pub key: String,
    /// Where the sentence with the number starts.
    pub needle: usize,
    /// Where the question starts.
    pub question: usize,
}

/// Whose passkeys are hidden, where there are several.
const NAMES: [&str; 4] = ["Anna", "Victor", "Clara", "Oscar"];

impl Prompt {
    /// `width` tokens with the number at `depth` percent, in the text that `hay` holds. The number
    /// is a function of `seed`.
    ///
    /// # Errors
    /// Fewer tokens of hay than there is room for; a width without room for any.
    pub fn new(
        tokenizer: &mut Tokenizer,
        hay: &[u32],
        width: usize,
        depth: usize,
        seed: u64,
    ) -> Result<Self> {
        Self::among(tokenizer, hay, width, (depth, 1), seed)
    }

    /// The same with one of up to four numbers asked for, each with the name of its owner: it is at
    /// `depth` percent, the others at even steps behind it and, past the end, from the beginning.
    ///
    /// # Errors
    /// As [`new`](Prompt::new); more numbers than there are names.
    pub fn among(
        tokenizer: &mut Tokenizer,
        hay: &[u32],
        width: usize,
        (depth, keys): (usize, usize),
        seed: u64,
    ) -> Result<Self> {
        ensure!((1..=NAMES.len()).contains(&keys), "expected 1 to {} passkeys, got {keys}", NAMES.len());
        let mut random = SmallRng::seed_from_u64(seed);
        let numbers: Vec<String> =
            (0..keys).map(|_| random.random_range(10_000..100_000u32).to_string()).collect();
        let whose = |index: usize| if keys == 1 { String::new() } else { format!(" of {}", NAMES[index]) };
        let mut encode = |text: String| tokenizer.encode(&text, false);
        let mut needles = Vec::new();
        for (index, key) in numbers.iter().enumerate() {
            let of = whose(index);
            let text = format!("\n\nThe pass key{of} is {key}. Remember it: the pass key{of} is {key}.\n\n");
            needles.push(((depth + index * 100 / keys) % 100, encode(text)?));
        }
        let of = whose(0);
        let question = encode(format!("\n\nWhat is the pass key{of}? The pass key{of} is"))?;
        let key = numbers.into_iter().next().unwrap_or_default();
        let answer = encode(format!(" {key}"))?;
        let bos = tokenizer.bos();
        let hidden: usize = needles.iter().map(|(_, needle)| needle.len()).sum();
        let rest = usize::from(bos.is_some()) + hidden + question.len() + answer.len();
        ensure!(width > rest, "--width: the passkey and its question alone take {rest} tokens, got {width}");
        let room = width - rest;
        ensure!(hay.len() >= room, "expected {room} tokens of text around the passkey, got {}", hay.len());
        let (mut ids, mut needle) = (bos.into_iter().collect::<Vec<u32>>(), 0);
        let first = needles[0].clone();
        needles.sort_by_key(|(depth, _)| *depth);
        let mut read = 0;
        for (depth, tokens) in needles {
            let cut = room * depth / 100;
            ids.extend_from_slice(&hay[read..cut]);
            read = cut;
            if (depth, &tokens) == (first.0, &first.1) {
                needle = ids.len();
            }
            ids.extend(tokens);
        }
        ids.extend_from_slice(&hay[read..room]);
        let question_at = ids.len();
        ids.extend(question);
        ids.extend(&answer);
        Ok(Self { answer: width - answer.len()..width, ids, key, needle, question: question_at })
    }
}

/// What came of one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The prompt's number: its depth's place in [`DEPTHS`] and more ([`unit`](Measured::unit)).
    pub window: usize,
    /// The depth in percent.
    pub depth: usize,
    /// Tokens between the sentence with the number and the end.
    pub distance: usize,
    /// The number to be found.
    pub key: String,
    /// What the model would have written up to its first mistake.
    pub answer: String,
    /// Whether that is the number.
    pub right: bool,
    /// Negative log-likelihood of the number's tokens together, in nats.
    pub nll: f64,
    /// Mean key blocks visited per token and head.
    pub blocks: f64,
    /// The same of the tokens that answer.
    pub answer_blocks: f64,
    /// Bytes of keys and values at the end: held, and what they would be in f16.
    pub kv_bytes: [u64; 2],
    /// How many seconds it took.
    pub seconds: f64,
}

impl Measured for Found {
    const COLUMNS: &'static [&'static str] = &[
        "window",
        "depth",
        "distance",
        "key",
        "answer",
        "right",
        "nll",
        "blocks",
        "answer_blocks",
        "kv_bytes",
        "kv_f16_bytes",
        "seconds",
    ];

    fn values(&self) -> Vec<String> {
        vec![
            self.window.to_string(),
            self.depth.to_string(),
            self.distance.to_string(),
            self.key.clone(),
            self.answer.clone(),
            u8::from(self.right).to_string(),
            self.nll.to_string(),
            self.blocks.to_string(),
            self.answer_blocks.to_string(),
            self.kv_bytes[0].to_string(),
            self.kv_bytes[1].to_string(),
            self.seconds.to_string(),
        ]
    }

    fn parse(fields: &Fields<'_>) -> Result<Self> {
        Ok(Self {
            window: fields.number(0)?,
            depth: fields.number(1)?,
            distance: fields.number(2)?,
            key: fields.text(3).to_owned(),
            answer: fields.text(4).to_owned(),
            right: fields.number::<u8>(5)? == 1,
            nll: fields.number(6)?,
            blocks: fields.number(7)?,
            answer_blocks: fields.number(8)?,
            kv_bytes: [fields.number(9)?, fields.number(10)?],
            seconds: fields.number(11)?,
        })
    }

    fn unit(&self) -> usize {
        unit(self.window, self.depth)
    }

    fn parts(_: &Source) -> usize {
        1
    }
}

/// The [unit](Measured::unit) of a prompt in a window of a text; the seed of its number, too.
pub fn unit(window: usize, depth: usize) -> usize {
    100 * window + depth
}

/// One prompt under one setting, read in these pieces.
///
/// `step` is called before each layer and may stop it.
///
/// # Errors
/// What the backend and `step` return; logits that are not finite.
pub fn evaluate(
    loaded: &Loaded,
    attention: &mut dyn Attend,
    prompt: &Prompt,
    (window, depth): (usize, usize),
    pieces: &[Range<usize>],
    step: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Found> {
    let start = Instant::now();
    // Lists are drawn anew for each prompt.
    attention.start(unit(window, depth) as u32);
    let (mut written, mut right, mut nll) = (Vec::new(), true, 0.0);
    // Each answer token is predicted by the one before it.
    let predicting = prompt.answer.start - 1..prompt.answer.end - 1;
    for piece in pieces {
        let hidden = loaded.model.forward(&prompt.ids[piece.clone()], attention, step)?;
        let rows = predicting.start.max(piece.start)..predicting.end.min(piece.end);
        if rows.is_empty() {
            continue;
        }
        let targets = &prompt.ids[rows.start + 1..rows.end + 1];
        let rows = rows.start - piece.start..rows.end - piece.start;
        let logits = loaded.model.logits(&hidden.i(rows)?)?;
        nll += negative_log_likelihoods(&logits, targets)?.iter().sum::<f64>();
        for (&likeliest, &target) in logits.argmax(D::Minus1)?.to_vec1::<u32>()?.iter().zip(targets) {
            if right {
                written.push(likeliest);
                right = likeliest == target;
            }
        }
    }
    attention.check()?;
    let usage = attention.usage();
    Ok(Found {
        window,
        depth,
        distance: prompt.ids.len() - prompt.needle,
        key: prompt.key.clone(),
        answer: loaded.tokenizer.decode(&written)?.trim().to_owned(),
        right,
        nll,
        blocks: usage.blocks_per_token(0..prompt.ids.len()).0,
        answer_blocks: usage.blocks_per_token(predicting).0,
        kv_bytes: [usage.kv_bytes, usage.kv_f16_bytes],
        seconds: start.elapsed().as_secs_f64(),
    })
}
