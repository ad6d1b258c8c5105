//! The program itself, on small random models and the CPU backend: what it prints, what it refuses,
//! and that its results survive interruptions. (A program started by a test doesn't get the
//! software device of scripts/with-vulkan; the GPU backend is tested in-process.)

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::common::Tiny;
use candle_core::quantized::GgmlDType;
use serde_json::Value;

use crate::common::output::{refused, succeeded};

struct Folder {
    folder: tempfile::TempDir,
}

impl Folder {
    /// A folder with a small model and a text.
    fn new(tiny: Tiny) -> Self {
        let folder = tempfile::tempdir().unwrap();
        tiny.write(&folder.path().join("tiny.gguf"), GgmlDType::Q8_0);
        std::fs::write(folder.path().join("text.txt"), crate::common::text(2500)).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        command.current_dir(self.folder.path()).args(arguments).env("RUST_BACKTRACE", "0");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Standard output of a run that succeeds.
    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        succeeded(self.run(arguments))
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[arguments, &["--json"]].concat())).unwrap()
    }

    /// Standard error of a run that fails, without a panic.
    #[track_caller]
    fn refused(&self, arguments: &[&str]) -> String {
        refused(self.run(arguments))
    }
}

const GENERATE: [&str; 5] = ["generate", "--model", "tiny.gguf", "--backend", "cpu"];
const PERPLEXITY: [&str; 9] =
    ["perplexity", "--model", "tiny.gguf", "--backend", "cpu", "--text", "text.txt", "--width", "200"];

#[test]
fn generate_prints_text_and_one_object() {
    for tiny in [Tiny::Llama, Tiny::Gemma] {
        let folder = Folder::new(tiny);
        let arguments = [&GENERATE[..], &["--prompt", "the hat and", "--max-new", "12"]].concat();
        let shown = folder.ok(&arguments);
        assert!(shown.starts_with("the hat and"), "{shown}");
        for word in ["Setting", "Device", "Tokens", "Memory", "Blocks"] {
            assert!(shown.contains(word), "{shown}");
        }
        let object = folder.json(&arguments);
        let keys: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "model",
                "setting",
                "backend",
                "adapter",
                "driver",
                "prompt_tokens",
                "new_tokens",
                "ids",
                "text",
                "prefill_tokens_per_second",
                "decode_tokens_per_second",
                "kv_bytes",
                "kv_capacity_bytes",
                "kv_f16_bytes",
                "staircase",
                "blocks_per_token",
                "dense_blocks_per_token",
                "interrupted"
            ]
        );
        assert!(shown.contains(object["text"].as_str().unwrap()));
        let ids = object["ids"].as_array().unwrap().len();
        assert_eq!(object["new_tokens"], ids);
        assert_eq!(object, {
            // Pieces change rounding, not the text; speeds are what they are.
            let mut again = folder.json(&[&arguments[..], &["--chunk", "2"]].concat());
            for key in ["prefill_tokens_per_second", "decode_tokens_per_second"] {
                again[key] = object[key].clone();
            }
            again["kv_capacity_bytes"] = object["kv_capacity_bytes"].clone();
            again
        });
    }
}

#[test]
fn generate_takes_files_draws_tokens_and_samples_blocks() {
    let folder = Folder::new(Tiny::Llama);
    let prompt = ["--prompt-file", "text.txt", "--max-new", "4"];
    let sampled = ["--attention", "prflash", "--block-size", "16", "--beta", "0.5"];
    let object = folder.json(&[&GENERATE[..], &prompt, &sampled].concat());
    let (visited, all) = (&object["blocks_per_token"], &object["dense_blocks_per_token"]);
    assert!(visited.as_f64().unwrap() < 0.5 * all.as_f64().unwrap(), "{visited} of {all}");
    // Of a long prompt the text shows the end.
    let shown = folder.ok(&[&GENERATE[..], &prompt].concat());
    let text = std::fs::read_to_string(folder.path("text.txt")).unwrap();
    assert!(text.len() > 1000 && shown.starts_with('['), "{shown}");
    let (cut, after) = shown.split_once(" bytes]\n").unwrap();
    let rest = &text[cut[1..].parse::<usize>().unwrap()..];
    assert!(rest.len() <= 200 && after.starts_with(rest), "{shown}");
    let drawn = |seed| {
        let prompt = ["--prompt", "the", "--temperature", "2", "--token-seed", seed];
        folder.json(&[&GENERATE[..], &prompt].concat())["ids"].clone()
    };
    assert_eq!(drawn("1"), drawn("1"));
    assert_ne!(drawn("1"), drawn("2"));
    let none = folder.json(&[&GENERATE[..], &["--prompt", "the", "--max-new", "0"]].concat());
    assert_eq!(none["new_tokens"], 0);
}

const CONTENT: [&str; 13] = [
    "content",
    "--models",
    "tiny.gguf",
    "--backend",
    "cpu",
    "--texts",
    "text.txt",
    "--width",
    "100",
    "--tokens",
    "12",
    "--results",
    "content.csv",
];

#[test]
fn rules_are_compared_once() {
    let folder = Folder::new(Tiny::Llama);
    let rules = [
        "--rule",
        "dense: ",
        "--rule",
        "window: --attention sink-window --profile half-window:3 --block-size 8",
        "--rule",
        "content: --attention content --profile 3;group=8;bits=8 --block-size 8 --lists-per kv-head",
    ];
    let arguments = [&CONTENT[..], &rules].concat();
    let object = folder.json(&arguments);
    let rows = object["rows"].as_array().unwrap();
    let of = |row: usize, key: &str| rows[row][key].as_f64().unwrap();
    assert_eq!((rows.len(), of(0, "kl"), of(0, "agreement"), of(0, "read")), (3, 0.0, 1.0, 1.0));
    for (row, read) in [(1, 0.2..0.3), (2, 0.25..0.4)] {
        assert!(of(row, "kl") > 1e-6 && read.contains(&of(row, "read")), "{}", rows[row]);
    }
    // What is there isn't computed again, and is what is shown.
    let written = std::fs::read_to_string(folder.path("content.csv")).unwrap();
    assert_eq!(
        (folder.json(&arguments)["rows"].clone(), written.lines().count()),
        (object["rows"].clone(), 4)
    );
    assert_eq!(std::fs::read_to_string(folder.path("content.csv")).unwrap(), written);
    for (more, reason) in [
        (["--rule", "nothing"], "expected 'NAME: OPTIONS'"),
        (["--rule", "x: --attention content"], "--profile says how many blocks"),
        (["--rule", "x: --attention content --profile 8;bits=4"], "expected BLOCKS and estimate="),
        (["--window", "99"], "--window 99"),
        (["--tokens", "99"], "--tokens: expected fewer than the window's 100"),
    ] {
        let error = folder.refused(&[&CONTENT[..9], &CONTENT[11..], &more].concat());
        assert!(error.contains(reason), "{more:?}: {error}");
    }
}

#[test]
fn passkeys_are_asked_for_once() {
    let folder = Folder::new(Tiny::Llama);
    let common = ["passkeys", "--model", "tiny.gguf", "--backend", "cpu", "--texts", "text.txt"];
    fn ask<'a>(common: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
        [common, &["--results", "keys.csv", "--width", "400"], more].concat()
    }
    for (more, rules) in [(&[][..], 10), (&["--keys", "2"], 10), (&["--sparse"], 4), (&["--caches"], 8)] {
        let arguments = [&ask(&common, more)[..], &["--windows", "1"]].concat();
        let object = folder.json(&arguments);
        assert_eq!(
            (object["prompts"].as_u64(), object["rows"].as_array().unwrap().len()),
            (Some(5), 5 * rules)
        );
        assert_eq!(folder.json(&arguments), object);
    }
    let lines = std::fs::read_to_string(folder.path("keys.csv")).unwrap().lines().count();
    assert_eq!(lines, 1 + 5 * (10 + 10 + 4 + 8));
    let error = folder.refused(&ask(&common, &["--windows", "999"]));
    assert!(error.contains("text.txt") && error.contains("--windows 999"), "{error}");
}

#[test]
fn a_staircase_is_shown_by_rung() {
    let folder = Folder::new(Tiny::Llama);
    let stairs = "paper;segment=32";
    let prompt = crate::common::text(80);
    let options = ["--prompt", &prompt, "--max-new", "2", "--staircase", stairs];
    let arguments = [&GENERATE[..], &options].concat();
    let shown = folder.ok(&arguments);
    for line in [
        "  keys   ",
        " at 8 bits, ",
        "  values ",
        " at 2 bits",
        " of sinks",
        " by the formula, ",
        " than f16",
    ] {
        assert!(shown.contains(line), "{shown}");
    }
    let object = folder.json(&arguments);
    let rungs = &object["staircase"];
    assert_eq!(
        (rungs["live"].as_u64(), rungs["f16"].as_u64()),
        (rungs["formula"].as_u64(), object["kv_f16_bytes"].as_u64())
    );
    assert_eq!(rungs["values"].as_array().unwrap().len(), 3);
    // Two sides, four layers, two heads of 16 channels in f16. (The tiny heads are padded to 32
    // channels, so little is saved.)
    let tokens = object["prompt_tokens"].as_u64().unwrap() + 1;
    assert_eq!(rungs["f16"], tokens * 2 * 4 * 2 * 16 * 2);
    // In pieces of any size, since each is cut where a segment steps.
    let pieces = folder.json(&[&arguments[..], &["--chunk", "7"]].concat());
    assert_eq!((&pieces["ids"], &pieces["staircase"]["live"]), (&object["ids"], &rungs["live"]));
}

#[test]
fn broken_models_are_named() {
    let folder = Folder::new(Tiny::Llama);
    let whole = std::fs::read(folder.path("tiny.gguf")).unwrap();
    let refused = |name: &str, bytes: Option<&[u8]>| {
        if let Some(bytes) = bytes {
            std::fs::write(folder.path(name), bytes).unwrap();
        }
        let error = folder.refused(&["generate", "--backend", "cpu", "--prompt", "a", "--model", name]);
        assert!(error.contains(name), "{error}");
        error
    };
    assert!(refused("missing.gguf", None).contains("No such file"));
    assert!(refused(".", None).contains("directory"));
    assert!(refused("empty.gguf", Some(b"")).contains("not a readable GGUF"));
    assert!(refused("other.gguf", Some(b"PK\x03\x04 something else")).contains("not a readable GGUF"));
    // Cut off in the metadata, and in the tensors.
    assert!(refused("head.gguf", Some(&whole[..1000])).contains("not a readable GGUF"));
    assert!(refused("tail.gguf", Some(&whole[..whole.len() / 2])).contains("tensor"));
    let replaced = |from: &[u8], to: &[u8]| {
        let at = whole.windows(from.len()).position(|part| part == from).unwrap();
        let mut bytes = whole.clone();
        bytes[at..at + to.len()].copy_from_slice(to);
        bytes
    };
    let value = |name: &[u8]| [&b"general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0"[..], name].concat();
    let architecture = replaced(&value(b"llama"), &value(b"mamba"));
    assert!(refused("mamba.gguf", Some(&architecture)).contains("architecture \"mamba\""));
    let tensor = replaced(b"blk.1.ffn_up", b"blk.1.ffn_xx");
    assert!(refused("tensor.gguf", Some(&tensor)).contains("blk.1.ffn_up.weight is missing"));
    // What candle's reader would divide by, and what would make another model.
    for (key, number) in [("general.alignment", 0), ("llama.block_count", 0), ("llama.expert_count", 8)] {
        let parts = Tiny::Llama.parts().key(key, candle_core::quantized::gguf_file::Value::U32(number));
        parts.write(&folder.path("changed.gguf"), GgmlDType::Q8_0);
        assert!(refused("changed.gguf", None).contains(&format!("{key} = {number}: ")));
    }
}

#[test]
fn wrong_options_are_named() {
    let folder = Folder::new(Tiny::Llama);
    let refused = |options: &str, expected: &str| {
        let options: Vec<&str> = options.split_whitespace().collect();
        let error = folder.refused(&[&GENERATE[..], &["--prompt", "a"], &options].concat());
        assert!(error.contains(expected), "{error}");
    };
    refused("--beta 0.5", "--beta says how to sample");
    refused("--attention prflash --beta 2", "--beta");
    refused("--attention uniform --beta 0.5", "--beta");
    refused("--attention prflash --profile square", "--profile");
    refused("--attention prflash --profile harmonic:x", "--profile");
    refused("--attention prflash --profile deduction:0.3 --sampler segment --floor 0.3", "--sampler");
    refused("--attention prflash --window-blocks 0", "--window-blocks");
    refused("--attention prflash --block-size 0", "--block-size");
    refused("--attention prflash --rounds 0", "--rounds");
    refused("--attention prflash --rounds 2 --partition-rounds 2", "--partition-rounds");
    refused("--rope-scaling yarn", "--rope-scaling");
    refused("--rope-scaling ntk:0.5", "--rope-scaling");
    refused("--bias slope", "--bias");
    refused("--bias alibi --bias-weight=-1", "--bias");
    refused("--harmonic-factor 0", "--harmonic-factor");
    refused("--staircase K:8x2,4", "--staircase: character 8: expected V:");
    refused("--staircase K:8x2,5;V:4", "--staircase: character 3:");
    refused("--stored-keys before-rotation", "--staircase");
    refused("--staircase paper --attention prflash --rounds 2", "--rounds");
    refused("--temperature=-1", "--temperature");
    refused("--chunk 0", "--chunk");
    // The second opinion knows less than the engines.
    let plain = GENERATE.map(|word| if word == "cpu" { "plain" } else { word });
    for (options, option) in
        [(&["--storage", "f16"][..], "--storage"), (&["--attention", "prflash", "--rounds", "2"], "--rounds")]
    {
        let error = folder.refused(&[&plain[..], &["--prompt", "a"], options].concat());
        assert!(error.contains(option) && error.contains("plain backend"), "{error}");
    }
    let error = folder.refused(&[&GENERATE[..], &["--prompt", ""]].concat());
    assert!(error.contains("--prompt"), "{error}");
    let refused = |options: &[&str], expected: &str| {
        let error = folder.refused(&[&PERPLEXITY[..], options].concat());
        assert!(error.contains(expected), "{error}");
    };
    refused(&["--windows", "1000"], "--windows");
    refused(&["--setting", "no colon"], "'NAME: OPTIONS'");
    refused(&["--setting", "a: --beta x"], "--beta");
    refused(&["--setting", "a:", "--setting", "a:"], "name");
    refused(&["--setting", "a:", "--attention", "uniform"], "--setting");
    let of_text = |text, width| {
        let options =
            ["perplexity", "--model", "tiny.gguf", "--backend", "cpu", "--text", text, "--width", width];
        folder.refused(&options)
    };
    assert!(of_text("text.txt", "1").contains("--width"));
    assert!(of_text("none.txt", "100").contains("none.txt"));
    assert!(of_text("text.txt", "100000").contains("--text"));
    std::fs::write(folder.path("other.csv"), "a,b\n1,2\n").unwrap();
    refused(&["--out", "other.csv"], "columns");
}

/// The rows of a file without what differs between runs: seconds.
fn rows(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.ends_with('\n'));
    text.lines().map(|line| line.rsplit_once(',').unwrap().0.to_owned()).collect()
}

const SWEEP: [&str; 6] = [
    "--setting",
    "dense:",
    "--setting",
    "half: --attention prflash --block-size 16 --beta 0.5",
    "--setting",
    "harmonic: --bias harmonic --bias-weight 0.1",
];

#[test]
fn perplexity_sums_up_and_resumes() {
    for tiny in [Tiny::Llama, Tiny::Gemma] {
        let folder = Folder::new(tiny);
        let sweep = |windows, out| [&PERPLEXITY[..], &SWEEP, &["--windows", windows, "--out", out]].concat();
        let object = folder.json(&sweep("3", "whole.csv"));
        let settings = object["settings"].as_array().unwrap();
        assert_eq!(settings.len(), 3);
        for setting in settings {
            let total = &setting["total"];
            let predicted = 3 * 199;
            assert_eq!(total["tokens"], predicted);
            let perplexity = total["perplexity"].as_f64().unwrap();
            assert!(perplexity > 10.0 && perplexity < 1e6, "{perplexity}");
            // Both are the same sum; a token is at least a byte and at most four here.
            let bits = perplexity.log2();
            let per_byte = total["bits_per_byte"].as_f64().unwrap();
            assert!(per_byte > bits / 4.0 && per_byte <= 1.001 * bits, "{bits} and {per_byte}");
            assert_eq!(setting["buckets"].as_array().unwrap().len(), 2);
        }
        assert_eq!(settings[0]["nats_over_first"], 0.0);
        assert_eq!(settings[0]["total"]["blocks"], settings[0]["total"]["dense_blocks"]);
        assert_ne!(settings[1]["nats_over_first"], 0.0);
        assert!(settings[1]["standard_error"].as_f64().unwrap() > 0.0);

        // Fewer windows first, then the same file cut in the middle of a row, and behind one: the
        // rest is computed, what is there stays.
        let whole = std::fs::read_to_string(folder.path("whole.csv")).unwrap();
        folder.ok(&sweep("1", "steps.csv"));
        folder.ok(&sweep("3", "steps.csv"));
        let sorted = |name: &str| {
            let mut rows = rows(&folder.path(name));
            rows[1..].sort();
            rows
        };
        assert_eq!(sorted("steps.csv"), sorted("whole.csv"));
        let second_row = whole.match_indices('\n').nth(1).unwrap().0 + 1;
        for end in [0, 10, whole.len() / 2, second_row, whole.len() - 1, whole.len()] {
            std::fs::write(folder.path("cut.csv"), &whole[..end]).unwrap();
            let again = folder.json(&sweep("3", "cut.csv"));
            assert_eq!(rows(&folder.path("cut.csv")), rows(&folder.path("whole.csv")), "cut at {end}");
            assert_eq!(again["settings"][1]["total"], settings[1]["total"]);
        }
        // Nothing is left to compute, so nothing changes, seconds included.
        folder.ok(&sweep("3", "whole.csv"));
        assert_eq!(std::fs::read_to_string(folder.path("whole.csv")).unwrap(), whole);
        // The table says the same.
        let table = folder.ok(&sweep("3", "whole.csv"));
        assert!(table.contains("128..200") && table.contains("over the first setting"), "{table}");
    }
}

#[test]
fn the_header_is_stable() {
    let folder = Folder::new(Tiny::Llama);
    folder.ok(&[&PERPLEXITY[..], &["--windows", "1", "--out", "new/rows.csv"]].concat());
    let text = std::fs::read_to_string(folder.path("new/rows.csv")).unwrap();
    assert_eq!(
        text.lines().next().unwrap(),
        "name,attention,profile,sinks,window_blocks,floor,sampler,beta,rounds,lists_per,block_size,seed,rope_scaling,bias,\
         harmonic_factor,storage,staircase,stored_keys,staircase_layers,model,model_sha256,backend,device,text,text_sha256,width,revision,window,bucket_start,\
         bucket_end,tokens,bytes,nll,blocks,dense_blocks,kv_bytes,kv_capacity_bytes,kv_f16_bytes,seconds"
    );
}

#[test]
fn sweep_and_report_name_what_is_missing() {
    let folder = Folder::new(Tiny::Llama);
    let sweep = ["sweep", "--quick", "--backend", "cpu"];
    assert!(folder.refused(&sweep).contains("--models"));
    for part in ["target/models", "target/texts"] {
        std::fs::create_dir_all(folder.path(part)).unwrap();
    }
    let refused = folder.refused(&sweep);
    assert!(refused.contains("scripts/fetch-models") && refused.contains(".gguf"), "{refused}");
    std::fs::rename(folder.path("tiny.gguf"), folder.path("target/models/SmolLM2-135M-Instruct.Q4_1.gguf"))
        .unwrap();
    let refused = folder.refused(&sweep);
    assert!(refused.contains("scripts/fetch-models") && refused.contains("emma.txt"), "{refused}");
    assert!(folder.refused(&[&sweep[..], &["--only", "size"]].concat()).contains("--only"));

    // Two windows of 2,048 tokens are too many for a short text.
    std::fs::write(folder.path("target/texts/emma.txt"), crate::common::text(300)).unwrap();
    std::fs::write(folder.path("target/texts/wiki.txt"), crate::common::text(300)).unwrap();
    let refused = folder.refused(&[&sweep[..], &["--only", "ages"]].concat());
    assert!(refused.contains("1024 tokens"), "{refused}");

    // Kernels are timed on a device, or not at all: said before anything is computed.
    assert!(folder.refused(&[&sweep[..], &["--only", "speed"]].concat()).contains("no kernels to time"));
    assert!(!folder.path("target/lab/quick/speed.csv").exists());

    // A report of nothing is one; what people wrote has to be there.
    let object = folder.json(&["report", "--quick"]);
    assert_eq!(object["measured"], 0);
    assert!(object["asked"].as_u64().unwrap() > 50);
    let text = std::fs::read_to_string(folder.path("target/lab/quick/RESULTS.md")).unwrap();
    assert!(text.starts_with("# Results") && text.contains("Nothing is measured yet"), "{text}");
    // A small run leaves alone what a full one gave, its results as its report.
    let refused = folder.refused(&["report", "--quick", "--out", "lab/RESULTS.md"]);
    assert!(refused.contains("--out"), "{refused}");
    folder.json(&["report", "--quick", "--results", "small"]);
    assert!(folder.path("small/RESULTS.md").exists() && !folder.path("lab").exists());
    let refused = folder.refused(&["report", "--out", "RESULTS.md"]);
    assert!(refused.contains("lab/answers"), "{refused}");
    assert!(!folder.path("RESULTS.md").exists());
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_text() {
    use std::io::Read;
    let folder = Folder::new(Tiny::Gemma);
    let arguments = [&GENERATE[..], &["--prompt", "the hat", "--max-new", "1000000"]].concat();
    let mut child = folder.command(&arguments).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut shown = vec![0; 8];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut shown).unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    stdout.read_to_end(&mut shown).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "interrupted runs end with 130");
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.starts_with("the hat") && shown.contains("\nTokens   "), "{shown}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_whole_rows() {
    let folder = Folder::new(Tiny::Llama);
    let out = folder.path("rows.csv");
    let arguments =
        [&PERPLEXITY[..], &SWEEP, &["--windows", "20", "--chunk", "8", "--out", "rows.csv"]].concat();
    let mut child = folder.command(&arguments).stdout(std::process::Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    let windows =
        || std::fs::read_to_string(&out).map_or(0, |text| text.lines().count().saturating_sub(1) / 2);
    while windows() == 0 {
        assert!(start.elapsed() < Duration::from_secs(60), "no row within a minute");
        assert!(child.try_wait().unwrap().is_none(), "it ended before its first row");
        std::thread::sleep(Duration::from_millis(2));
    }
    let signalled = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(signalled.success());
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130), "interrupted runs end with 130");
    let done = windows();
    assert!(done < 60, "it had finished before it was interrupted");
    assert_eq!(rows(&out).len(), 1 + 2 * done);
}
