//! The command lines, as users type them.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn originals() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../weights-converter/tests/goldens/originals")
}

fn xtask(arguments: &[&dyn AsRef<OsStr>]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(arguments.iter().map(|a| a.as_ref()));
    command.output().expect("starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

#[test]
fn trio_folder_file_and_inspect() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    let (unet, vae, clip) = (
        originals().join("unet.pth"),
        originals().join("vae.ckpt"),
        originals().join("clip.bin"),
    );
    let configs = originals().join("configs");
    let trio = xtask(&[
        &"convert",
        &"trio",
        &"--unet",
        &unet,
        &"--vae",
        &vae,
        &"--clip",
        &clip,
        &"--configs",
        &configs,
        &"--json",
        &"--output",
        &at("trio"),
    ]);
    assert!(trio.status.success(), "{}", text(&trio.stderr));
    let manifest: serde_json::Value = serde_json::from_slice(&trio.stdout).expect("JSON");
    assert_eq!(manifest["components"].as_object().expect("a map").len(), 4);
    let folder = xtask(&[
        &"convert",
        &"folder",
        &at("trio"),
        &"--dtype",
        &"f16",
        &"--shard-size",
        &"1MB",
        &"--output",
        &at("folder"),
    ]);
    assert!(folder.status.success(), "{}", text(&folder.stderr));
    let file = xtask(&[
        &"convert",
        &"file",
        &vae,
        &"--component",
        &"vae",
        &"--configs",
        &configs,
        &"--to",
        &"burnpack",
        &"--output",
        &at("vae"),
    ]);
    assert!(file.status.success(), "{}", text(&file.stderr));
    assert!(at("vae").join("diffusion_pytorch_model.bpk").exists());
    for (path, sound) in [
        (at("trio"), true),
        (at("folder"), true),
        (at("vae"), true),
        (unet.clone(), false),
    ] {
        let report = xtask(&[&"inspect", &path, &"--deep", &"--json"]);
        assert_eq!(
            report.status.success(),
            sound,
            "{}: {}",
            path.display(),
            text(&report.stdout)
        );
        let json: serde_json::Value = serde_json::from_slice(&report.stdout).expect("JSON");
        assert!(!json["components"].as_array().expect("a list").is_empty());
    }
    let report = text(&xtask(&[&"inspect", &unet]).stdout);
    assert!(report.contains("cargo xtask convert file"), "{report}");
}

#[test]
fn a_dry_run_prints_the_mapping_and_writes_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("out");
    let configs = originals().join("configs");
    let unet = originals().join("unet.pth");
    let run = |json: &[&str]| {
        let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![
            &"convert",
            &"file",
            &unet,
            &"--configs",
            &configs,
            &"--concat-gain",
            &"fold",
            &"--dry-run",
            &"--output",
            &out,
        ];
        arguments.extend(json.iter().map(|a| a as &dyn AsRef<OsStr>));
        let output = xtask(&arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let table = run(&[]);
    let row = table
        .lines()
        .find(|l| l.starts_with("input_blocks.0.0.weight "))
        .expect("a row");
    assert!(
        row.contains("unet/conv_in.weight") && row.contains("DoubleInputs"),
        "{row}"
    );
    assert!(table.contains("to_qkv") && table.contains("Rows { part: 2, of: 3 }"));
    let rows: Vec<serde_json::Value> = serde_json::from_str(&run(&["--json"])).expect("JSON");
    assert_eq!(rows.len(), table.lines().count());
    assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 0);
}

#[test]
fn mistakes_are_one_line_and_exit_code_2() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("out");
    let page = dir.path().join("model.bin");
    std::fs::write(&page, "<html>").expect("written");
    let (clip, unet) = (originals().join("clip.bin"), originals().join("unet.pth"));
    let lora = originals().join("../lora/kohya.safetensors");
    let configs = originals().join("configs");
    let cases: [(&[&dyn AsRef<OsStr>], &str); 8] = [
        (
            &[&"convert", &"file", &page, &"--output", &out],
            "web page (HTML)",
        ),
        (
            &[&"convert", &"file", &"absent.bin", &"--output", &out],
            "absent.bin",
        ),
        (
            &[&"convert", &"file", &clip, &"--output", &out],
            "choose one with --component",
        ),
        (
            &[&"convert", &"file", &unet, &"--output", &out],
            "of another shape",
        ),
        (
            &[&"convert", &"folder", &dir.path(), &"--output", &out],
            "neither model_index.json",
        ),
        (
            &[
                &"convert",
                &"trio",
                &"--unet",
                &unet,
                &"--configs",
                &configs,
                &"--output",
                &out,
            ],
            "--vae FILE",
        ),
        (
            &[
                &"convert",
                &"file",
                &clip,
                &"--component",
                &"image-encoder",
                &"--configs",
                &configs,
                &"--lora",
                &lora,
                &"--output",
                &out,
            ],
            "none of its layers",
        ),
        (&[&"inspect", &"absent"], "absent"),
    ];
    for (arguments, message) in cases {
        let output = xtask(arguments);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(
            error.contains(message) && error.lines().count() == 1,
            "{message}: {error}"
        );
        assert!(!out.exists());
    }
    // Before anything is opened.
    let usage: [(&[&str], &str); 10] = [
        (&["--shard-size", "5 apples"], "write a size such as 5GB"),
        (&["--shard-size", "0"], "write a size such as 5GB"),
        (&["--shard-size", "99999999999GB"], "write a size"),
        (
            &["--dtype", "f8"],
            "[possible values: f32, f16, bf16, keep]",
        ),
        (
            &["--to", "onnx"],
            "[possible values: safetensors, burnpack]",
        ),
        (&["--concat-gain", "2"], "[possible values: keep, fold]"),
        (&["--component", "clip"], "text-encoder, image-encoder"),
        (&["--only", "vae"], "unexpected argument '--only'"),
        (&["--allow-unknown"], "--lora"),
        (&["--output"], "--output"),
    ];
    for (extra, message) in usage {
        let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&"convert", &"file", &unet];
        if extra != ["--output"] {
            arguments.extend([&"--output" as &dyn AsRef<OsStr>, &out]);
        }
        arguments.extend(extra.iter().map(|a| a as &dyn AsRef<OsStr>));
        let output = xtask(&arguments);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(
            error.starts_with("error: ") && error.contains(message) && error.lines().count() == 1,
            "{message}: {error}"
        );
    }
    assert_eq!(xtask(&[&"convert", &"folder"]).status.code(), Some(2));
    assert!(text(&xtask(&[&"convert"]).stderr).contains("Usage:"));
    assert!(xtask(&[&"convert", &"trio", &"--help"]).status.success());
    assert!(!out.exists());
}
