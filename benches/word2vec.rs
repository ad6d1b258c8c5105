//! How many words a second word2vec is trained by on this device: skip-gram and bags of words, for
//! vectors and batches of different size.
//!
//! The text is made up: the r-th word comes with a probability in proportion to 1/r, as by Zipf, in
//! sentences of 20 words. Words of the text count, as in other programs, also those that
//! subsampling leaves out. A round trains so many words of each training in turn, with batches made
//! on the host and a wait at the end; the first round isn't counted. Medians over rounds with the
//! range. *Host* is what making batches alone would allow, on one thread.
//!
//! Of a batch of I items (of skip-gram C + 2·window tokens, of bags C means) and C centres with P
//! pairs, S shared negatives for each 32 items (N in all), G gradients and R rows that change, of d
//! numbers each, E comparisons with a centre (of skip-gram P, of bags I):
//!
//! ```text
//! operations  6·d·(E + I·S) + d·G + 2·d·R, of bags of words 2·d·P more
//! bytes       4·d·(3·I + N + C + 2·G + 2·R) + 8·(E + I·S)
//! ```
//!
//! A product of two rows, and each of the two changes that follow from it, are 2·d operations.
//! Bytes are the least that the kernels can do with: each row once for each kernel that needs it.
//!
//! Below the table is an *estimate*, which nothing measured: a roofline of these numbers with a
//! bandwidth and operations a second that are given. It leaves out latency, launches of kernels,
//! uploads and caches; the host's rate is a bound beside it.
//!
//! ```text
//! scripts/with-vulkan cargo bench --features word2vec --bench word2vec
//! ```

mod support;

use std::fmt::Write as _;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use prflash::Context;
use prflash::word2vec::{Architecture, Corpus, CorpusOptions, Options, Training};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use testkit::statistics::{median, range};

/// Times trainings of word2vec.
#[derive(Parser)]
struct Arguments {
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Numbers of a vector.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 300])]
    dimensions: Vec<usize>,
    /// Tokens of a batch.
    #[arg(long, value_delimiter = ',', default_values_t = [1024, 4096])]
    batches: Vec<usize>,
    /// Negatives that 32 items share.
    #[arg(long, default_value_t = 32)]
    shared: usize,
    /// Words on each side of a word that a window has at most.
    #[arg(long, default_value_t = 5)]
    window: usize,
    /// Different words.
    #[arg(long, default_value_t = 20_000)]
    vocabulary: usize,
    /// Words that a round trains, at least.
    #[arg(long, default_value_t = 16_384)]
    words: usize,
    /// Rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The bandwidth of the estimate, in 10⁹ bytes a second.
    #[arg(long, default_value_t = 448.0)]
    bandwidth: f64,
    /// Operations of the estimate, in 10⁹ a second.
    #[arg(long, default_value_t = 8000.0)]
    gflops: f64,
    /// cargo passes this.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Words of the text; a training goes through it again and again.
const TEXT: usize = 1 << 18;
/// Items that share negatives.
const RUN: usize = 32;

/// A training, and its seconds by round.
struct Way<'c> {
    pairs: bool,
    batch: usize,
    training: Training<'c>,
    work: Work,
    seconds: Vec<f64>,
    host: Vec<f64>,
}

/// What a batch is, on average of those looked at.
#[derive(Clone, Copy, Default)]
struct Work {
    centres: f64,
    flops: f64,
    bytes: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let context =
        Context::new_blocking().context("a bench needs an adapter: scripts/with-vulkan brings one")?;
    ensure!(arguments.vocabulary > 0, "--vocabulary: expected at least 1, got 0");
    let text = text(arguments.vocabulary);
    let corpus = Corpus::read(text.as_bytes(), CorpusOptions::new().with_min_count(1))?;
    let mut ways = Vec::new();
    for architecture in [Architecture::SkipGram, Architecture::BagOfWords] {
        for &dimension in &arguments.dimensions {
            for &batch in &arguments.batches {
                let options = Options::new(architecture).with_dimension(dimension)?.with_batch(batch)?;
                let options = options.with_window(arguments.window)?.with_shared(arguments.shared)?;
                ways.push(way(&context, &arguments, &corpus, architecture, options.with_epochs(10_000)?)?);
            }
        }
    }
    for round in 0..=arguments.rounds.max(1) {
        for way in &mut ways {
            let batches = arguments.words.div_ceil(way.batch);
            let begun = Instant::now();
            way.training.advance_blocking(batches)?;
            let middle = Instant::now();
            let next = way.training.next_batch();
            let end = Instant::now();
            std::hint::black_box(next);
            if round > 0 {
                way.seconds.push((middle - begun).as_secs_f64() / batches as f64);
                way.host.push((end - middle).as_secs_f64());
            }
        }
    }
    if arguments.json {
        let rows: Vec<Value> = ways.iter().map(|way| way.to_json(&arguments)).collect();
        let capabilities = context.capabilities();
        let object = json!({
            "adapter": capabilities.adapter, "driver": capabilities.driver,
            "window": arguments.window, "shared": arguments.shared,
            "vocabulary": corpus.vocabulary().len(), "rows": rows,
            "estimate": { "bandwidth": arguments.bandwidth * 1e9, "flops": arguments.gflops * 1e9 },
        });
        println!("{}", serde_json::to_string_pretty(&object)?);
    } else {
        print(&context, &arguments, &corpus, &ways);
    }
    Ok(())
}

/// Words as by Zipf.
fn text(vocabulary: usize) -> String {
    let mut until = Vec::with_capacity(vocabulary);
    let mut sum = 0.0;
    for rank in 1..=vocabulary {
        sum += 1.0 / rank as f64;
        until.push(sum);
    }
    let mut rng = SmallRng::seed_from_u64(1);
    let mut text = String::new();
    for number in 1..=TEXT {
        let drawn = rng.random_range(0.0..sum);
        let word = until.partition_point(|&until| until <= drawn);
        let end = if number.is_multiple_of(20) { '\n' } else { ' ' };
        write!(text, "{word}{end}").expect("strings grow");
    }
    text
}

fn way<'c>(
    context: &Context,
    arguments: &Arguments,
    corpus: &'c Corpus,
    architecture: Architecture,
    options: Options,
) -> Result<Way<'c>> {
    let pairs = architecture == Architecture::SkipGram;
    let mut training = Training::new(context, corpus, options)?;
    let batch = training.next_batch();
    let centres = batch.centres();
    let compared: usize = (0..centres).map(|centre| batch.context_words(centre).count()).sum();
    let items = if pairs { centres + 2 * arguments.window } else { centres };
    let negatives = items.div_ceil(RUN) * arguments.shared;
    let rows = batch.input_rows().len() + batch.output_rows().len();
    let all = batch.input_rows().iter().chain(batch.output_rows());
    let gradients: usize = all.map(|row| row.count as usize).sum();
    let positives = if pairs { compared } else { items };
    let both = positives + items * arguments.shared;
    let d = options.dimension();
    let means = if pairs { 0 } else { 2 * d * compared };
    let work = Work {
        centres: centres as f64,
        flops: (6 * d * both + means + d * gradients + 2 * d * rows) as f64,
        bytes: (4 * d * (3 * items + negatives + centres + 2 * gradients + 2 * rows) + 8 * both) as f64,
    };
    let batch = options.batch().min(corpus.tokens().len());
    Ok(Way { pairs, batch, training, work, seconds: Vec::new(), host: Vec::new() })
}

impl Way<'_> {
    fn name(&self) -> &'static str {
        if self.pairs { "skip-gram" } else { "bags of words" }
    }

    fn dimension(&self) -> usize {
        self.training.options().dimension()
    }

    /// Words a second: median, least, most.
    fn rates(&self) -> [f64; 3] {
        let (least, most) = range(&self.seconds);
        [median(&self.seconds), most, least].map(|seconds| self.batch as f64 / seconds)
    }

    /// What making batches alone would allow.
    fn host_rate(&self) -> f64 {
        self.batch as f64 / median(&self.host)
    }

    /// Words a second by the roofline, and whether bytes are what bounds them.
    fn estimate(&self, arguments: &Arguments) -> (f64, bool) {
        let computing = self.work.flops / (arguments.gflops * 1e9);
        let moving = self.work.bytes / (arguments.bandwidth * 1e9);
        (self.batch as f64 / computing.max(moving), moving > computing)
    }

    fn to_json(&self, arguments: &Arguments) -> Value {
        let [words_per_second, ..] = self.rates();
        let (estimate, by_bytes) = self.estimate(arguments);
        json!({
            "architecture": self.name(), "dimension": self.dimension(), "batch": self.batch,
            "seconds_per_batch": self.seconds, "host_seconds_per_batch": self.host,
            "words_per_second": words_per_second, "host_words_per_second": self.host_rate(),
            "centres_per_batch": self.work.centres,
            "flops_per_second": self.work.flops / median(&self.seconds),
            "flops_per_centre": self.work.flops / self.work.centres,
            "bytes_per_centre": self.work.bytes / self.work.centres,
            "estimated_words_per_second": estimate,
            "estimate_bound_by": if by_bytes { "bandwidth" } else { "operations" },
        })
    }
}

fn print(context: &Context, arguments: &Arguments, corpus: &Corpus, ways: &[Way<'_>]) {
    println!("{}", context.capabilities());
    println!(
        "\nWindow {}, {} shared negatives, {} different words:\n",
        arguments.window,
        arguments.shared,
        corpus.vocabulary().len()
    );
    println!(
        "| | d | batch | 10³ words/s | host, 10³ words/s | GFLOP/s | 10³ operations a centre \
         | kB a centre |\n| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |"
    );
    for way in ways {
        let [middle, least, most] = way.rates().map(|rate| rate * 1e-3);
        println!(
            "| {} | {} | {} | {middle:.1} ({least:.1} to {most:.1}) | {:.0} | {:.2} | {:.1} | {:.1} |",
            way.name(),
            way.dimension(),
            way.batch,
            way.host_rate() * 1e-3,
            way.work.flops / median(&way.seconds) * 1e-9,
            way.work.flops / way.work.centres * 1e-3,
            way.work.bytes / way.work.centres * 1e-3,
        );
    }
    println!(
        "\nEstimate, not measured, of a device with {} GB/s and {} GFLOP/s, in 10⁶ words a second:\n",
        arguments.bandwidth, arguments.gflops
    );
    for way in ways {
        let (rate, by_bytes) = way.estimate(arguments);
        let by = if by_bytes { "bandwidth" } else { "operations" };
        println!(
            "- {}, d = {}, batch {}: {:.1}, bound by {by}; the host here makes batches for {:.1}",
            way.name(),
            way.dimension(),
            way.batch,
            rate * 1e-6,
            way.host_rate() * 1e-6
        );
    }
}
