//! The page's model beside the lab's, which is candle's in all but its attention; and what files
//! are refused for.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use lab::attend::Attend as _;
use lab::cpu::CpuAttention;
use lab::gguf::ModelFile;
use lab::setting::Setting;
use prflash_web::generate::{self, Header, Loader, Model, Refused, Writer};

/// What logits may differ by, as a part of the largest: the page rounds what it multiplies to 16
/// bits, and the memory of both to f16, or to other codes where a last bit differs.
const TOLERANCE: f32 = 5e-3;

fn load(file: &[u8]) -> Result<Model, Refused> {
    let length = file.len() as u64;
    let Some(header) = Header::read(file, length)? else { panic!("the whole file has its header") };
    let mut loader = Loader::new(&header, length)?;
    for number in 0..loader.pieces().len() {
        let piece = &loader.pieces()[number];
        let (from, bytes) = (piece.offset as usize, piece.bytes as usize);
        loader.take(number, &file[from..from + bytes])?;
    }
    loader.finish()
}

/// The likeliest tokens behind a text, by the page's model and by the lab's: each reads what the
/// page's chose, and their logits are compared on the way.
fn beside_the_lab(path: &Path, text: &str, count: usize) -> Result<()> {
    let Some(context) = testkit::device::gpu("the page's model beside the lab's") else { return Ok(()) };
    let file = ModelFile::open(path)?;
    let mut tokenizer = lab::tokenizer::Tokenizer::read(&file)?;
    let theirs = lab::model::Model::load(&file, |_, _| Ok(()))?;
    let setting = Setting::from_options("--staircase recommended")?;
    let mut attention = CpuAttention::new(theirs.config(), &setting)?;
    attention.start(0);
    let mut expect = |token: u32| -> Result<Vec<f32>> {
        let hidden = theirs.forward(&[token], &mut attention, &mut |_| Ok(()))?;
        Ok(theirs.logits(&hidden)?.flatten_all()?.to_vec1::<f32>()?)
    };
    let mut ours = pollster::block_on(Writer::new(&context, load(&std::fs::read(path)?)?))?;
    ours.start()?;
    let mut tokens = ours.tokens(text);
    assert_eq!(tokens, tokenizer.encode(text, false)?, "the tokens of {text:?}");
    let (prompt, mut worst) = (tokens.len(), 0.0f32);
    for at in 0..prompt + count {
        let token = tokens[at];
        // Bytes that are no character by themselves are shown as one that stands for none.
        let known = str::from_utf8(ours.bytes(token)).unwrap_or("\u{FFFD}");
        assert_eq!(known, tokenizer.decode(&[token])?, "token {token}");
        let logits = expect(token)?;
        pollster::block_on(ours.read(token))?;
        let size = logits.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let pairs = ours.logits().iter().zip(&logits);
        let error = pairs.fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
        ensure!(error <= TOLERANCE * size, "logits behind token {at}: off by {error}, the largest is {size}");
        worst = worst.max(error / size);
        if at + 1 >= prompt {
            // Where the text would end, it goes on with any token.
            tokens.push(ours.likeliest().unwrap_or(at as u32 % 200 + 1));
        }
    }
    println!("logits behind {} tokens differ by {worst} of the largest at most", prompt + count);
    Ok(())
}

#[test]
fn a_small_model_is_the_labs() -> Result<()> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(&generate::tiny::file())?;
    beside_the_lab(file.path(), "the hand and the hats, 4567 of them.\n\nThen  an ünlikely 🦀 end", 260)
}

#[test]
fn smollm2_is_the_labs() -> Result<()> {
    let name = "SmolLM2-135M-Instruct.Q4_1.gguf";
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/models");
    let folder = std::env::var_os("PRFLASH_MODELS").map_or(root, PathBuf::from);
    let path = folder.join(name);
    if !path.is_file() {
        writeln!(
            std::io::stderr(),
            "SKIPPED smollm2_is_the_labs: no {name} (scripts/fetch-models brings it)"
        )?;
        return Ok(());
    }
    beside_the_lab(&path, "Anne had 3 sisters in 1814; the naïve one", 8)
}

#[test]
fn other_files_are_refused_with_their_reason() {
    let file = generate::tiny::file();
    let refusal = |file: &[u8]| load(file).err().expect("a refusal");
    assert_eq!(refusal(b"PK\x03\x04, a zip"), Refused::NotGguf);
    assert_eq!(refusal(&[]), Refused::CutOff("its header".into()));
    assert_eq!(refusal(&file[..file.len() - 1]).kind(), "CutOff");
    // A name or a number at another place of the same length.
    let changed = |from: &[u8], to: &[u8]| {
        let at = file.windows(from.len()).position(|bytes| bytes == from).expect("it is there");
        let mut other = file.clone();
        other[at..at + from.len()].copy_from_slice(to);
        refusal(&other).to_string()
    };
    assert!(changed(b"llama", b"qwen2").contains("architecture is qwen2"));
    assert!(changed(b"gpt2", b"bert").contains("tokenizer is bert"));
    assert!(changed(b"smollm", b"qwen35").contains("qwen35"));
    assert!(changed(b"blk.1.ffn_down", b"blk.1.ffn_xown").contains("blk.1.ffn_xown.weight"));
    assert!(changed(b"llama.rope.freq_base", b"llama.rope.freq_rate").contains("llama.rope.freq_rate"));
    assert!(changed("Ġ and".as_bytes(), "Ġ axd".as_bytes()).contains("merge"));
    // Q4_1 to Q6_K, behind the two dimensions of the matrix.
    let name = b"blk.0.attn_q.weight";
    let at = file.windows(name.len()).position(|bytes| bytes == name).expect("it is there");
    let mut other = file.clone();
    other[at + name.len() + 4 + 16] = 14;
    assert!(refusal(&other).to_string().contains("blk.0.attn_q is stored as Q6_K"), "{}", refusal(&other));
}

#[test]
fn spoilt_files_are_refused_or_read() {
    let file = generate::tiny::file();
    // Cut off anywhere.
    for length in (0..file.len()).step_by(997) {
        assert!(load(&file[..length]).is_err(), "{length} bytes");
    }
    // A header of which more is to come.
    assert_eq!(Header::read(&file[..100], file.len() as u64), Ok(None));
    // Bytes of the header turned: no panic, no room for made-up counts.
    let header = file.len().min(8_000);
    for at in 4..header {
        let mut other = file.clone();
        other[at] ^= 0x81;
        let _ = load(&other);
    }
}
