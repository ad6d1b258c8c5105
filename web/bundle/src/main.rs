//! Puts the page together: wasm-bindgen's glue around the compiled modules, each in one file with
//! the worker that calls it, the first tokens of the fixture, and the files of the page as they
//! are. `scripts/web build` calls it.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use flate2::Compression;
use flate2::write::GzEncoder;
use safetensors::{Dtype, SafeTensors};

/// Tokens of the fixture that the page gets, which take less than 1 MB for each layer.
const TOKENS: usize = 1536;

/// Bytes of the text that sub-words are trained on: seconds of work for a browser.
const TEXT: usize = 100_000;

/// Puts the page of prflash together.
#[derive(Parser)]
struct Arguments {
    /// The name that the page has for a module, what cargo compiled for wasm32-unknown-unknown, and
    /// how many bytes it may take when it is compressed by gzip. Again for each.
    #[arg(long, num_args = 3, value_names = ["NAME", "FILE", "BYTES"], required = true)]
    module: Vec<String>,
    /// The texts of the kernels, which are in the modules.
    #[arg(long)]
    shaders: PathBuf,
    /// Kernels that a module never runs: its name, and a folder or a file of theirs below that of
    /// all. Again for each.
    #[arg(long, num_args = 2, value_names = ["NAME", "PATH"])]
    without: Vec<String>,
    /// The page's own files.
    #[arg(long)]
    page: PathBuf,
    /// What a worker does with a module: it goes into one file with the glue of each.
    #[arg(long)]
    worker: PathBuf,
    /// The attention inputs of the repository.
    #[arg(long)]
    fixture: PathBuf,
    /// The text to train sub-words on.
    #[arg(long)]
    text: PathBuf,
    /// Where the page is put together; what is there already is replaced.
    #[arg(long)]
    out: PathBuf,
}

fn main() -> Result<()> {
    let Arguments { module, shaders, without, page, worker, fixture, text, out } = Arguments::parse();
    if out.exists() {
        fs::remove_dir_all(&out).with_context(|| format!("replacing {}", out.display()))?;
    }
    fs::create_dir_all(&out).with_context(|| format!("making {}", out.display()))?;
    copy(&page, &out)?;
    for (layer, inputs) in crop(&fixture).with_context(|| format!("cropping {}", fixture.display()))? {
        fs::write(out.join(format!("layer{layer}.bin")), &inputs)?;
        println!("{}: {} bytes of attention inputs of layer {layer}", out.display(), inputs.len());
    }
    let text = fs::read(&text).with_context(|| format!("reading {}", text.display()))?;
    fs::write(out.join("persuasion.txt"), &text[..text.len().min(TEXT)])?;
    let glue = out.join("wasm");
    let worker = fs::read_to_string(&worker).with_context(|| format!("reading {}", worker.display()))?;
    let texts = texts(&shaders).with_context(|| format!("reading {}", shaders.display()))?;
    for module in module.chunks_exact(3) {
        let [name, file, most] = module else { unreachable!("chunks of three") };
        let most: usize = most.parse().with_context(|| format!("the most bytes of {name}: {most}"))?;
        let without: Vec<PathBuf> = without
            .chunks_exact(2)
            .filter(|pair| pair[0] == *name)
            .map(|pair| shaders.join(&pair[1]))
            .collect();
        let packed = put(name, Path::new(file), &texts, &without, &glue)?;
        let path = glue.join(format!("{name}.js"));
        let own = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        // In a block of its own, since the glue has names, too.
        fs::write(&path, format!("{own}\n{{\n{worker}}}\n"))?;
        ensure!(packed <= most, "{name} takes {packed} bytes by gzip, more than its {most}");
    }
    Ok(())
}

/// Puts a module with its glue into a folder of the page; gives its bytes by gzip.
fn put(
    name: &str,
    file: &Path,
    texts: &[(PathBuf, Vec<u8>)],
    without: &[PathBuf],
    out: &Path,
) -> Result<usize> {
    wasm_bindgen_cli_support::Bindgen::new()
        .input_path(file)
        .out_name(name)
        .web(true)?
        .typescript(false)
        .remove_name_section(true)
        .remove_producers_section(true)
        .generate(out)
        .with_context(|| format!("wasm-bindgen's glue for {}", file.display()))?;
    let path = out.join(format!("{name}_bg.wasm"));
    let mut module = fs::read(&path)?;
    let blanked = blank(&mut module, texts, without);
    fs::write(&path, &module)?;
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(&module)?;
    let packed = packed.finish()?.len();
    println!(
        "{name}: {} bytes, {packed} by gzip; comments of {blanked} kernels and pieces are blank",
        module.len()
    );
    Ok(packed)
}

/// The texts of all files below a folder.
fn texts(folder: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            texts.extend(self::texts(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "wgsl") {
            let text = fs::read(&path)?;
            texts.push((path, text));
        }
    }
    Ok(texts)
}

/// Writes spaces over the comments of the kernels that a module has, and over all of those that it
/// never runs: their lengths stay, and spaces take next to nothing by gzip. Gives how many texts
/// were found.
fn blank(module: &mut [u8], texts: &[(PathBuf, Vec<u8>)], without: &[PathBuf]) -> usize {
    let mut found = 0;
    for (path, text) in texts {
        let Some(at) = memchr::memmem::find(module, text) else { continue };
        found += 1;
        let unused = without.iter().any(|folder| path.starts_with(folder));
        for line in module[at..at + text.len()].split_mut(|&byte| byte == b'\n') {
            let from = if unused { Some(0) } else { memchr::memmem::find(line, b"//") };
            if let Some(from) = from {
                line[from..].fill(b' ');
            }
        }
    }
    found
}

/// All files of a folder.
fn copy(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let path = entry?.path();
        let into = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            fs::create_dir_all(&into)?;
            copy(&path, &into)?;
        } else {
            fs::copy(&path, &into).with_context(|| format!("copying {}", path.display()))?;
        }
    }
    Ok(())
}

/// Of each layer its number, and the first tokens of its tensors: their count, the layer's number,
/// and Q, K and V in f16, heads first, before rotation. Little-endian.
fn crop(fixture: &Path) -> Result<Vec<(u32, Vec<u8>)>> {
    let bytes = fs::read(fixture)?;
    let tensors = SafeTensors::deserialize(&bytes)?;
    let (_, metadata) = SafeTensors::read_metadata(&bytes)?;
    let facts = metadata.metadata().as_ref().context("it has no metadata")?;
    let fact = |name: &str| facts.get(name).with_context(|| format!("its metadata lacks {name}"));
    // What the page takes for granted.
    ensure!(fact("rope_base")?.parse::<f64>()? == 1e5, "expected a rope_base of 100000");
    ensure!(fact("rope_pairing")? == "interleaved", "expected interleaved pairs");
    let layers =
        fact("layers")?.split(',').map(|layer| layer.trim().parse()).collect::<Result<Vec<u32>, _>>()?;
    let mut crops = Vec::new();
    for layer in layers {
        let mut crop = Vec::new();
        crop.extend((TOKENS as u32).to_le_bytes());
        crop.extend(layer.to_le_bytes());
        for name in ["q", "k", "v"] {
            let tensor = tensors.tensor(&format!("layer{layer}.{name}"))?;
            let heads = if name == "q" { 3 } else { 1 };
            let [has, tokens, 64] = *tensor.shape() else { anyhow::bail!("expected heads of 64 channels") };
            ensure!(
                tensor.dtype() == Dtype::F16 && has == heads && tokens >= TOKENS,
                "unexpected layer{layer}.{name}"
            );
            for head in tensor.data().chunks_exact(tokens * 64 * 2) {
                crop.extend(&head[..TOKENS * 64 * 2]);
            }
        }
        crops.push((layer, crop));
    }
    Ok(crops)
}
