//! `cargo xtask import-onnx`: `cargo test -p xtask --features onnx`.
#![cfg(feature = "onnx")]

use std::{fs, path::Path, process::Command};

fn xtask(arguments: &[&Path]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    let output = command
        .arg("import-onnx")
        .args(arguments)
        .output()
        .expect("starts");
    (
        output.status.code(),
        String::from_utf8(output.stderr).expect("text"),
    )
}

#[test]
fn the_committed_module_is_what_the_importer_makes() {
    let example =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/pipeline/examples/preview_decoder");
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("imported");
    let (code, error) = xtask(&[&example.join("preview.onnx"), "--output".as_ref(), &out]);
    assert_eq!(code, Some(0), "{error}");
    // The first lines name the path of the file that was imported.
    let code = |path: &Path| {
        let text = fs::read_to_string(path).expect("readable");
        text.lines()
            .filter(|l| !l.starts_with("//"))
            .map(str::trim)
            .collect::<String>()
    };
    // rustfmt, which the committed one has seen, sorts and wraps.
    let statements = |path: &Path| {
        let text = code(path).replace([' ', ','], "");
        let mut parts: Vec<String> = text.split(';').map(str::to_owned).collect();
        parts[..7].sort();
        parts
    };
    assert_eq!(
        statements(&out.join("preview.rs")),
        statements(&example.join("imported/preview.rs"))
    );
    // Parameter ids are drawn anew each time; the tensors lie behind them.
    let weights = |path: &Path| fs::read(path).expect("readable");
    let (made, committed) = (
        weights(&out.join("preview.bpk")),
        weights(&example.join("imported/preview.bpk")),
    );
    assert_eq!(made.len() / 4096, committed.len() / 4096);
    assert_eq!(
        made[made.len() - 20_000..],
        committed[committed.len() - 20_000..]
    );
    let (code, error) = xtask(&[&example.join("preview.onnx"), "--output".as_ref(), &out]);
    assert_eq!(code, Some(2));
    assert!(error.contains("--force"), "{error}");
}

#[test]
fn mistakes_are_one_line_and_leave_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("out");
    let example =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/pipeline/examples/preview_decoder");
    let valid = fs::read(example.join("preview.onnx")).expect("readable");
    let file = dir.path().join("model.onnx");
    for (content, what) in [
        (&b""[..], "not an ONNX file"),
        (b"<html>", "not an ONNX file"),
        (b"PK\x03\x04 a checkpoint", "not an ONNX file"),
        (&valid[..valid.len() / 2], "cannot be imported"),
        (&[0x42; 300], "cannot be imported"),
    ] {
        fs::write(&file, content).expect("written");
        let (code, error) = xtask(&[&file, "--output".as_ref(), &out]);
        assert_eq!(code, Some(2), "{error}");
        assert!(
            error.contains(what) && error.lines().count() == 1,
            "{error}"
        );
    }
    let odd = dir.path().join("my-model.onnx");
    fs::write(&odd, &valid).expect("written");
    let (code, error) = xtask(&[&odd, "--output".as_ref(), &out]);
    assert!(code == Some(2) && error.contains("Rust module"), "{error}");
    let (code, error) = xtask(&[&dir.path().join("absent.onnx"), "--output".as_ref(), &out]);
    assert!(code == Some(2) && error.contains("cannot read"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 2);
}
