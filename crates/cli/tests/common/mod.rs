//! What all tests of the program need.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::{
    ffi::OsStr,
    path::Path,
    process::{Command, Output},
};

use image::{Rgb, RgbImage};
use tempfile::TempDir;

pub const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo-model/model");
pub const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

pub fn i2vgen<S: AsRef<OsStr>>(arguments: &[S]) -> Output {
    // Whoever runs the tests may have a config file.
    Command::new(env!("CARGO_BIN_EXE_i2vgen"))
        .args(arguments)
        .env("XDG_CONFIG_HOME", "/nowhere")
        .output()
        .expect("the program starts")
}

/// A complete, quick command; `with` replaces or adds arguments.
pub fn arguments(folder: &Path, with: &[(&str, &str)]) -> Vec<String> {
    let image = folder.join("image.png");
    if !image.exists() {
        RgbImage::from_pixel(64, 64, Rgb([200, 40, 40]))
            .save(&image)
            .expect("saved");
    }
    let output = folder.join("out.gif");
    let mut all = vec![
        ("--model", MODEL.to_owned()),
        ("--image", image.display().to_string()),
        ("--prompt", "a red circle moves left".to_owned()),
        ("--height", "32".to_owned()),
        ("--width", "32".to_owned()),
        ("--num-frames", "2".to_owned()),
        ("--num-inference-steps", "1".to_owned()),
        ("--seed", "1".to_owned()),
        ("--output", output.display().to_string()),
    ];
    for (name, value) in with {
        all.retain(|(n, _)| n != name);
        all.push((name, (*value).to_owned()));
    }
    let mut list = vec!["generate".to_owned(), "--quiet".to_owned()];
    list.extend(all.into_iter().flat_map(|(n, v)| [n.to_owned(), v]));
    list
}

pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("readable");
    let mut names: Vec<_> = entries
        .map(|e| e.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The command must fail with one line that contains `says`, and leave the folder as it was.
pub fn refused(folder: &Path, with: &[(&str, &str)], says: &str) {
    let arguments = arguments(folder, with);
    let before = names(folder);
    let output = i2vgen(&arguments);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{with:?}: {text}");
    assert!(text.contains(says), "{with:?}: {text}");
    assert!(!text.contains("panicked"), "{with:?}: {text}");
    assert_eq!(text.trim_end().lines().count(), 1, "{with:?}: {text}");
    assert_eq!(names(folder), before, "{with:?}");
}

pub fn accepted(folder: &Path, with: &[(&str, &str)]) -> String {
    let output = i2vgen(&arguments(folder, with));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{with:?}: {text}");
    text
}

/// A copy of the demo model in which one file is changed.
pub fn broken_model(
    folder: &Path,
    file: &str,
    change: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>,
) -> String {
    let target = folder.join("model");
    for part in [
        "",
        "unet",
        "vae",
        "text_encoder",
        "image_encoder",
        "tokenizer",
        "scheduler",
        "feature_extractor",
    ] {
        std::fs::create_dir_all(target.join(part)).expect("made");
        for entry in std::fs::read_dir(Path::new(MODEL).join(part)).expect("read") {
            let entry = entry.expect("entry");
            if entry.path().is_file() {
                std::fs::copy(entry.path(), target.join(part).join(entry.file_name()))
                    .expect("copied");
            }
        }
    }
    let path = target.join(file);
    match change(std::fs::read(&path).expect("there")) {
        Some(bytes) => std::fs::write(&path, bytes).expect("written"),
        None => std::fs::remove_file(&path).expect("removed"),
    }
    target.display().to_string()
}

pub fn temporary() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}
