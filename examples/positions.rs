//! What each bias against distance does before content is looked at: curves of the bias and of the
//! attention prior, and how far the prior reaches. On the host; no GPU.
//!
//! ```text
//! cargo run --release --example positions
//! ```

use anyhow::Result;
use clap::Parser;
use prflash::position::{Distance, Pairing, Slopes};
use prflash::{Bias, Positions, Rope};
use serde_json::json;
use testkit::chart::{Axis, Panel, Scale, Series, chart};
use testkit::example;

/// Compares biases against distance: their curves and their reach.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    common: example::Common,
    /// Tokens of context that the last query sees.
    #[arg(long, default_value_t = 1 << 20, default_value_if("quick", "true", "131072"), value_parser = clap::value_parser!(u32).range(2..=1 << 24))]
    context: u32,
    /// Query heads.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    heads: u16,
    /// The length L of the factor a(Δ) = 1/(1 + Δ/L), in tokens.
    #[arg(long, default_value_t = 64.0)]
    length: f64,
    /// The lag from which on the capped harmonic distance is flat, in tokens.
    #[arg(long, default_value_t = 1024)]
    cap: u64,
}

/// The lags whose share of the prior is told.
const REACH: [usize; 3] = [1 << 10, 8 << 10, 64 << 10];

/// What falls below is not drawn.
const FLOOR: f64 = 1e-11;

/// One way to combine positions, and what follows for a query that sees the whole context.
struct Combination {
    name: String,
    factored: bool,
    /// (lag, bias) of the head in the middle.
    bias: Vec<(f64, f64)>,
    /// (lag, prior per token), the mean over heads.
    prior: Vec<(f64, f64)>,
    /// The share of the prior at lags from 1k, 8k and 64k on, the mean over heads.
    reach: [f64; 3],
}

/// A curve of a combination.
type Points = fn(&Combination) -> &[(f64, f64)];

fn main() -> Result<()> {
    env_logger::init();
    let (arguments, usual) = example::parse::<Arguments>();
    let (context, heads) = (arguments.context as usize, usize::from(arguments.heads));
    let combinations = combinations(&arguments)?
        .into_iter()
        .map(|(name, positions)| Combination::new(name, &positions, heads, context))
        .collect::<Result<Vec<_>>>()?;

    let folder = arguments.common.folder("positions", usual)?;
    let mut pictures = Vec::new();
    let middle = heads.div_ceil(2);
    let of_head = format!("bias of head {middle} of {heads}");
    let kinds: [(&str, &str, Points); 2] = [
        ("bias", &of_head, |combination| &combination.bias),
        ("prior", "prior per token, mean over heads", |combination| &combination.prior),
    ];
    for (file, label, points) in kinds {
        let panel = |title: String, factored: bool| {
            let drawn = combinations.iter().filter(|combination| combination.factored == factored);
            let series = drawn.map(|combination| {
                let shown = points(combination).iter().copied().filter(|&(_, y)| y >= FLOOR);
                // What the factor goes with has one colour with and without it.
                let name = combination.name.trim_start_matches("a, ");
                Series::line(name.split(" (").next().unwrap_or(name), shown)
            });
            Panel { title, series: series.filter(|series| !series.points.is_empty()).collect() }
        };
        let factor = format!("with the factor a(Δ) = 1/(1 + Δ/{}); the paper's is ALiBi", arguments.length);
        let path = folder.join(format!("{file}.svg"));
        let axis = |title| Axis { title, scale: Scale::Powers(10.0), ..Axis::default() };
        let panels = [panel("without a factor; recommended is harmonic".into(), false), panel(factor, true)];
        chart(&path, [axis("lag Δ"), axis(label)], &panels)?;
        pictures.push(path);
    }

    if arguments.common.json {
        let curves: Vec<_> = combinations
            .iter()
            .map(|Combination { name, reach: [one, eight, sixty_four], .. }| {
                json!({ "name": name, "reach_1k": one, "reach_8k": eight, "reach_64k": sixty_four })
            })
            .collect();
        let fields = json!({
            "context": context, "heads": heads, "length": arguments.length, "cap": arguments.cap,
            "curves": curves,
        });
        println!("{}", example::object("positions", None, &pictures, fields)?);
        return Ok(());
    }
    println!("{context} tokens of context, {heads} heads, L = {}\n", arguments.length);
    println!("{:<28}  beyond 1k   beyond 8k  beyond 64k", "positions");
    for Combination { name, reach, .. } in &combinations {
        let [one, eight, sixty_four] = reach.map(share);
        println!("{name:<28}  {one:>9}   {eight:>9}   {sixty_four:>9}");
    }
    println!(
        "\nbeyond: the share of the prior at lags from 1,024, 8,192 and 65,536 on, the mean over heads. The prior is the softmax of the bias alone: every"
    );
    println!(
        "content score is taken as 0, so a rotation changes nothing, and the factor a acts through its complement on the bias only. Slopes are 1/h"
    );
    println!("where ALiBi is not named.");
    println!("\nPictures {}", folder.display());
    Ok(())
}

/// All combinations, by name: the two readings of the paper, and what lies around them.
fn combinations(arguments: &Arguments) -> Result<Vec<(String, Positions)>> {
    let rope = Rope::new(64, 1e4, Pairing::Half)?;
    let plain = |distance, slopes| Bias::new(distance, slopes).map(Positions::from);
    let factored = |distance| plain(distance, Slopes::Harmonic)?.with_harmonic_factor(arguments.length);
    let (log, capped) = (Distance::Log { rate: 1.0 }, Distance::CappedHarmonic { cap: arguments.cap });
    let capped_name = format!("capped at {}", arguments.cap);
    Ok(vec![
        ("ALiBi".into(), Bias::alibi().into()),
        ("harmonic (recommended)".into(), Positions::doubly_harmonic(rope.clone())),
        ("harmonic, ALiBi slopes".into(), plain(Distance::Harmonic, Slopes::Alibi)?),
        ("log".into(), plain(log, Slopes::Harmonic)?),
        (capped_name.clone(), plain(capped, Slopes::Harmonic)?),
        ("RoPE alone".into(), rope.clone().into()),
        ("a, ALiBi (paper)".into(), Positions::paper(rope, arguments.length)?),
        ("a, harmonic".into(), factored(Distance::Harmonic)?),
        ("a, log".into(), factored(log)?),
        (format!("a, {capped_name}"), factored(capped)?),
    ])
}

impl Combination {
    fn new(name: String, positions: &Positions, heads: usize, context: usize) -> Result<Self> {
        let distance: Vec<f64> = (0..context as u64).map(|lag| positions.bias_at(lag)).collect();
        let slopes = positions.slopes(heads)?;
        let middle = slopes[heads.div_ceil(2) - 1];
        // Eight lags an octave: 1, 2, 3, …
        let mut lags: Vec<usize> =
            (0..).map(|i| 2f64.powf(f64::from(i) / 8.0) as usize).take_while(|&lag| lag < context).collect();
        lags.dedup();
        let mut prior = vec![0.0; lags.len()];
        let mut reach = [0.0; 3];
        let share = 1.0 / heads as f64;
        for slope in slopes {
            let weight = |distance: &f64| (-slope * distance).exp();
            // From the far end, so that the small ones are not lost.
            let total = |from: usize| distance.iter().skip(from).rev().map(weight).sum::<f64>();
            let whole = total(0);
            for (prior, &lag) in prior.iter_mut().zip(&lags) {
                *prior += share * weight(&distance[lag]) / whole;
            }
            for (reach, from) in reach.iter_mut().zip(REACH) {
                *reach += share * total(from) / whole;
            }
        }
        let at = |values: &dyn Fn(usize) -> f64| {
            (0..).zip(&lags).map(|(i, &lag)| (lag as f64, values(i))).collect()
        };
        Ok(Self {
            name,
            factored: positions.factor_length().is_some(),
            bias: at(&|i| middle * distance[lags[i]]),
            prior: at(&|i| prior[i]),
            reach,
        })
    }
}

/// A percentage with two digits, however small.
fn share(share: f64) -> String {
    match 100.0 * share {
        0.0 => "0%".into(),
        percent if percent < 0.01 => format!("{percent:.0e}%"),
        percent => format!("{percent:.2}%"),
    }
}
