//! The command line beyond a single video: settings from files, repeated runs, lists of jobs.

#[path = "../common/mod.rs"]
mod common;

mod batch;
mod config;
mod continuation;
mod devices;
mod download;
mod download_failures;
mod inputs;
mod lora;
mod outputs;
mod pull;
mod refine;
mod repeat;
mod sampling;
mod usage;

use std::{
    path::Path,
    process::{Command, Output},
};

use crate::common::MODEL;

/// A quick run in `folder`, with its picture and its paths; `more` is added.
fn run(folder: &Path, more: &[&str]) -> Output {
    picture(folder);
    let small = [
        "generate",
        "--quiet",
        "--model",
        MODEL,
        "--height",
        "32",
        "--width",
        "32",
        "--num-frames",
        "2",
    ];
    program(folder, &[&small, more].concat())
}

/// The program with `folder` as its current one, and no config file of the user.
fn program(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_i2vgen"))
        .args(arguments)
        .current_dir(folder)
        .env("XDG_CONFIG_HOME", folder.join("no-config"))
        // A layer of Mesa's that complains on stderr where there is no display.
        .env("NODEVICE_SELECT", "1")
        .output()
        .expect("the program starts")
}

fn picture(folder: &Path) {
    let image = folder.join("image.png");
    if !image.exists() {
        let pixels =
            image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8 * 4, y as u8 * 4, 40]));
        pixels.save(&image).expect("saved");
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn ok(output: &Output) {
    assert!(output.status.success(), "{}", text(output));
}

/// Exit 2 and one line that says this.
fn bad(output: &Output, says: &str) {
    let text = text(output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains(says) && !text.contains("panicked"), "{text}");
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
}

fn json(path: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).expect("JSON")
}

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
