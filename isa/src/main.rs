//! What prflash's kernels become on AMD GPUs, counted without a GPU.

mod assembly;
mod null_device;
mod row;
mod spirv;

use anyhow::Result;
use clap::Parser;

use null_device::NullDevice;
use spirv::Checks;

/// Counts.
#[derive(Parser)]
struct Args {
    #[arg(long, value_delimiter = ',', default_value = "navi31,navi21,vega10")]
    family: Vec<String>,
    #[arg(long)]
    variant: Option<String>,
    #[arg(long)]
    all: bool,
    #[arg(long)]
    trusted: bool,
    #[arg(long)]
    not_robust: bool,
    #[arg(long)]
    wave: Option<u32>,
    #[arg(long)]
    asm: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let checks = if args.trusted { Checks::Trusted } else { Checks::Checked };
    let candidates: Vec<_> = prflash::shaders::candidates()
        .into_iter()
        .filter(|c| args.all || args.variant.is_some() || c.chosen)
        .filter(|c| args.variant.as_ref().is_none_or(|v| c.source.name.contains(v.as_str())))
        .collect();
    println!("| family | variant | wave | VGPR | spills | waves | LDS | FMA% | vec% | per key | B/FLOP | fma/valu/trans/salu/smem/vmem/lds/br/wait/dual/moves |");
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for family in &args.family {
        let device = NullDevice::open(family, !args.not_robust)?;
        for c in &candidates {
            let start = std::time::Instant::now();
            let (r, asm) = match row::measure(&device, family, c, checks, args.wave) {
                Ok(r) => r,
                Err(e) => {
                    eprintln!("{family} {}: {e:#}", c.source.name);
                    continue;
                }
            };
            let k = r.step.unwrap_or(r.counts);
            println!(
                "| {family} | {}{} | {} | {} | {}+{}s | {} | {} | {:.1} | {:.1} | {:.1} | {:.3} | {}/{}/{}/{}/{}/{}/{}/{}/{}/{}/{} |",
                r.variant, if r.chosen { " *" } else { "" }, r.wave, r.vgprs, r.spills, r.scalar_spills, r.waves, r.lds, 100.0 * r.fma_share, 100.0 * r.vector_share, r.per_key, r.bytes_per_flop,
                k.fma, k.valu, k.transcendental, k.salu, k.smem, k.vmem, k.lds, k.branches, k.waits, k.duals, k.moves
            );
            if args.asm {
                std::fs::create_dir_all(format!("target/isa/{family}"))?;
                std::fs::write(format!("target/isa/{family}/{}.s", r.variant), asm)?;
            }
            if start.elapsed().as_secs() > 5 {
                eprintln!("{} took {:?}", r.variant, start.elapsed());
            }
        }
    }
    Ok(())
}
