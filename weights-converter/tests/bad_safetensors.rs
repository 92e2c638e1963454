//! safetensors files, and files that are no checkpoint at all.

mod support;

use std::{fs, path::Path};

use i2vgen_weights_converter::{Component, Plan, Source, read_config};
use serde_json::json;
use support::{Trial, expected, golden, read};

/// A header and so many bytes of values.
fn file(header: &str, values: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + values, 1);
    bytes
}

const GOOD: &str = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;

#[test]
fn what_torch_writes_is_read_right() {
    let name = "plain.safetensors";
    assert_eq!(read(&golden(name)), Ok(expected(name)));
}

#[test]
fn every_prefix_is_an_error() {
    let trial = Trial::new();
    let bytes = fs::read(golden("plain.safetensors")).unwrap();
    for end in 0..bytes.len() {
        assert!(trial.read(&bytes[..end]).is_err(), "cut at {end}");
    }
}

/// There are no checksums: an error, or values of the right length.
#[test]
fn every_flipped_byte() {
    let trial = Trial::new();
    let mut bytes = fs::read(golden("plain.safetensors")).unwrap();
    for at in 0..bytes.len() {
        for flip in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
            bytes[at] ^= flip;
            let _ = trial.read(&bytes);
            bytes[at] ^= flip;
        }
    }
}

/// A header may have any length, so its first byte may be that of a pickle, an archive, a web page or a text.
#[test]
fn headers_of_every_length() {
    let trial = Trial::new();
    for length in GOOD.len()..GOOD.len() + 600 {
        let header = format!("{GOOD:<length$}");
        assert_eq!(trial.read(&file(&header, 8)).unwrap().len(), 1, "{length}");
    }
}

#[test]
fn headers_that_lie() {
    let trial = Trial::new();
    assert!(trial.read(&file(GOOD, 8)).is_ok());
    let two = |a: [i64; 2], b: [i64; 2]| {
        let entry = |name: &str, [from, to]: [i64; 2]| {
            format!(r#""{name}":{{"dtype":"F32","shape":[2],"data_offsets":[{from},{to}]}}"#)
        };
        format!("{{{},{}}}", entry("a", a), entry("b", b))
    };
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let same = two([0, 8], [0, 8]).replace("\"b\"", "\"a\"");
    for (what, header, values) in [
        ("lost data", GOOD.to_owned(), 7),
        ("trailing data", GOOD.to_owned(), 9),
        ("overlapping", two([0, 8], [4, 12]), 12),
        ("the same place", two([0, 8], [0, 8]), 8),
        ("a hole", two([0, 8], [12, 20]), 20),
        ("backwards", one("F32", "[2]", "[8,0]"), 8),
        ("another size", one("F32", "[3]", "[0,8]"), 8),
        ("beyond", one("F32", "[2]", "[0,18446744073709551615]"), 8),
        (
            "overflow",
            one("F32", "[4294967296,4294967296]", "[0,8]"),
            8,
        ),
        (
            "overflow of bits",
            one("F32", "[4611686018427387904]", "[0,8]"),
            8,
        ),
        (
            "hidden overflow",
            one("F32", "[4294967296,4294967296,0]", "[0,0]"),
            0,
        ),
        ("negative", one("F32", "[-2]", "[0,8]"), 8),
        ("no such type", one("F33", "[2]", "[0,8]"), 8),
        ("lower case", one("f32", "[2]", "[0,8]"), 8),
        ("no object", r#"{"a":[]}"#.to_owned(), 0),
        ("cut", "{".to_owned(), 0),
        (
            "no shape",
            r#"{"a":{"dtype":"F32","data_offsets":[0,8]}}"#.to_owned(),
            8,
        ),
        ("one key twice", same, 8),
        ("deep", format!(r#"{{"a":{}"#, "[".repeat(100_000)), 0),
    ] {
        let error = trial.read(&file(&header, values)).expect_err(what);
        assert!(error.contains("damaged safetensors"), "{what}: {error}");
        assert_eq!(error.lines().count(), 1, "{what}: {error}");
    }
    for length in [0, 1, 5, 1 << 20, 1 << 31, 1 << 40, u64::MAX - 7, u64::MAX] {
        let mut bytes = file(GOOD, 8);
        bytes[..8].copy_from_slice(&u64::to_le_bytes(length));
        trial.refuses(&bytes, &["damaged safetensors"]);
    }
    trial.refuses(&file("{}", 0), &["no tensors"]);
    trial.refuses(
        &file(&GOOD.replace("\"a\"", r#""a\u001b[2J""#), 8),
        &["unprintable"],
    );
}

#[test]
fn files_that_are_something_else() {
    let trial = Trial::new();
    trial.refuses(b"", &["is empty"]);
    for page in [
        "<!DOCTYPE html><html><body>Not found</body></html>",
        "  \n<html>",
        "\u{feff}<html>",
        "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>",
    ] {
        trial.refuses(page.as_bytes(), &["web page (HTML)"]);
    }
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n";
    trial.refuses(pointer.as_bytes(), &["git lfs pull"]);
    for text in [
        "Access to this model is restricted.",
        "{\"error\": {}}",
        "{\"err\": {}}",
        "Kein Zugriff für Gäste",
    ] {
        trial.refuses(text.as_bytes(), &["text file"]);
    }
    let long = "ü".repeat(1000);
    trial.refuses(long.as_bytes(), &["text file"]);
    for bytes in [
        &[0; 1000][..],
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'}\0",
        b"GGUF\x03\0\0\0\0",
        b"\x1f\x8b\x08\0\0",
    ] {
        trial.refuses(bytes, &["not a readable PyTorch file"]);
    }
    trial.refuses(b"PK\x03\x04", &["damaged archive"]);
    trial.refuses(
        b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        &["no data.pkl"],
    );
    // A tar whose sparse file would be a terabyte.
    let mut tar = vec![0; 1024];
    tar[257..262].copy_from_slice(b"ustar");
    tar[0] = b's';
    trial.refuses(&tar, &["before 0.1.10"]);
    let error = read(trial.path()).unwrap_err();
    assert!(error.contains("it is a folder"), "{error}");
    let error = read(&trial.path().join("absent")).unwrap_err();
    assert!(error.contains("No such file"), "{error}");
}

/// A checkpoint of another model is told by its names.
#[test]
fn another_model() {
    let trial = Trial::new();
    let source = |header: &serde_json::Value, values| {
        let path = trial.path().join("other.safetensors");
        fs::write(&path, file(&header.to_string(), values)).unwrap();
        Source::open(&path).unwrap()
    };
    let entry =
        |from: usize| json!({ "dtype": "F32", "shape": [2], "data_offsets": [from, from + 8] });
    let bert = json!({ "bert.embeddings.word_embeddings.weight": entry(0), "bert.pooler.dense.bias": entry(8) });
    let error = source(&bert, 16).component().unwrap_err().to_string();
    assert!(
        error.contains("no component of this model") && error.contains("bert.pooler.dense.bias"),
        "{error}"
    );
    let config = |c: Component| read_config(c, None::<&Path>).unwrap();
    for component in Component::ALL {
        let error = Plan::new(component, &[source(&bert, 16)], &config(component))
            .unwrap_err()
            .to_string();
        for word in [
            "2 foreign",
            "bert.embeddings.word_embeddings.weight",
            "missing",
        ] {
            assert!(error.contains(word), "{component:?}: {error}");
        }
    }
    // Stable Diffusion's UNet has names of ours and lacks everything that concerns frames.
    let other = json!({ "model.diffusion_model.input_blocks.0.0.bias": entry(0), "model.diffusion_model.label_emb.0.0.bias": entry(8) });
    let error = Plan::new(
        Component::Unet,
        &[source(&other, 16)],
        &config(Component::Unet),
    )
    .unwrap_err()
    .to_string();
    assert!(error.contains("1 foreign (label_emb.0.0.bias)"), "{error}");
}
