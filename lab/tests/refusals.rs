//! What makes no model is refused, by name.

mod common;

use candle_core::quantized::gguf_file::Value;
use common::{Folder, Parts, Tiny, read, string};
use lab::gguf::ModelFile;

/// The error of a file that is refused, which names the file.
#[track_caller]
fn refused(parts: &Parts) -> String {
    let folder = Folder::new();
    let path = folder.write(parts);
    let Err(error) = read(&path) else { panic!("the file was taken") };
    let error = format!("{error:#}");
    assert!(error.contains("tiny.gguf"), "{error}");
    error
}

fn prefixed(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A header with these counts, and what follows them.
fn header(tensors: u64, keys: u64, rest: &[&[u8]]) -> Vec<u8> {
    let start: [&[u8]; 4] = [b"GGUF", &3u32.to_le_bytes(), &tensors.to_le_bytes(), &keys.to_le_bytes()];
    [start.concat(), rest.concat()].concat()
}

/// A key of some type, and the bytes of its value.
fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&prefixed(key), &kind.to_le_bytes()[..], value].concat()
}

/// A tensor's place in the header.
fn info(name: &str, dims: &[u64], offset: u64) -> Vec<u8> {
    let sizes: Vec<u8> = dims.iter().flat_map(|size| size.to_le_bytes()).collect();
    let count = (dims.len() as u32).to_le_bytes();
    [&prefixed(name), &count[..], &sizes, &0u32.to_le_bytes(), &offset.to_le_bytes()].concat()
}

#[test]
fn malformed_headers_are_refused() {
    let folder = Folder::new();
    let huge = u64::MAX.to_le_bytes();
    let array = |kind: u32, count: u64| [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
    let nested: Vec<u8> = (0..1000).flat_map(|_| array(9, 1)).collect();
    let cases: &[(&str, Vec<u8>, &str)] = &[
        ("no magic", b"GGML\x03\0\0\0".to_vec(), "GGML"),
        ("big-endian", [&b"GGUF"[..], &3u32.to_be_bytes(), &[0; 16]].concat(), "little-endian"),
        ("counts", header(u64::MAX, u64::MAX, &[]), "metadata"),
        ("keys", header(0, 1 << 29, &[&[0; 64]]), "metadata"),
        ("tensors", header(1 << 29, 0, &[&[0; 64]]), "tensors"),
        ("a long name", header(0, 1, &[&huge, b"abc"]), "a name of 18446744073709551615 bytes"),
        ("a long text", header(0, 1, &[&entry("a", 8, &huge)]), "a: 18446744073709551615 bytes expected"),
        (
            "a long list",
            header(0, 1, &[&entry("a", 9, &array(12, u64::MAX))]),
            "a: more than 16777216 elements",
        ),
        ("a long list of texts", header(0, 1, &[&entry("a", 9, &array(8, 1 << 20))]), "a: 8 bytes expected"),
        ("a long list of lists", header(0, 1, &[&entry("a", 9, &nested)]), "deep"),
        ("an unknown type", header(0, 1, &[&entry("a", 13, &[0; 8])]), "a: a value of unknown type 13"),
        ("a key twice", header(0, 2, &[&entry("a", 0, &[1]), &entry("a", 0, &[2])]), "a comes twice"),
        ("dimensions", header(1, 0, &[&info("w", &[1; 5], 0)]), "w: 5 dimensions"),
        (
            "many dimensions",
            header(1, 0, &[&prefixed("w"), &u32::MAX.to_le_bytes()]),
            "w: 4294967295 dimensions",
        ),
        ("elements", header(1, 0, &[&info("w", &[1 << 40, 1 << 40], 0)]), "w: more than"),
        ("no elements", header(1, 0, &[&info("w", &[4, 0], 0)]), "w: a dimension of 0"),
        ("an offset", header(1, 0, &[&info("w", &[4], 4)]), "w: offset 4"),
        ("a tensor twice", header(2, 0, &[&info("w", &[4], 0), &info("w", &[4], 32)]), "w comes twice"),
    ];
    for (name, bytes, expected) in cases {
        let path = folder.path("tiny.gguf");
        std::fs::write(&path, bytes).unwrap();
        let Err(error) = ModelFile::open(&path) else { panic!("{name} was taken") };
        let error = format!("{error:#}");
        assert!(
            error.contains("tiny.gguf: not a readable GGUF file") && error.contains(expected),
            "{name}: {error}"
        );
    }
    // Cut off anywhere, a header is an error and no panic.
    let whole = std::fs::read(folder.write(&Tiny::Llama.parts())).unwrap();
    for end in (0..6000).step_by(7) {
        let path = folder.path("tiny.gguf");
        std::fs::write(&path, &whole[..end]).unwrap();
        assert!(ModelFile::open(&path).is_err(), "cut at {end}");
    }
}

#[test]
fn alignments_that_are_none_are_refused() {
    for value in [
        Value::U32(0),
        Value::U32(4),
        Value::U32(24),
        Value::U32(u32::MAX),
        Value::U64(32),
        Value::I32(-32),
        string("32"),
    ] {
        let error = refused(&Tiny::Llama.parts().key("general.alignment", value));
        assert!(error.contains("not a readable GGUF file") && error.contains("general.alignment"), "{error}");
    }
    let error = refused(&Tiny::Llama.parts().key("general.alignment", Value::U32(0)));
    assert!(error.contains("general.alignment = 0: expected a power of two"), "{error}");
}
