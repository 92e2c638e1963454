//! `i2vgen batch`.

use std::{path::Path, process::Output};

use crate::{
    bad, bytes,
    common::{MODEL, names, temporary},
    json, ok, picture, program, text,
};

const SMALL: [&str; 10] = [
    "--model",
    MODEL,
    "--height",
    "32",
    "--width",
    "32",
    "--num-frames",
    "2",
    "--num-inference-steps",
    "1",
];

fn batch(folder: &Path, list: &str, more: &[&str]) -> Output {
    picture(folder);
    std::fs::write(folder.join("jobs.jsonl"), list).expect("written");
    program(
        folder,
        &[&["batch", "jobs.jsonl"], &SMALL[..], more].concat(),
    )
}

#[test]
fn all_jobs_and_each_as_if_alone() {
    let folder = temporary();
    let path = folder.path();
    let list = r#"{"image": "image.png", "prompt": "a", "seed": 1, "output": "a.safetensors"}

{"image": ["image.png"], "prompt": ["b", "c"], "seed": [2, 3], "output": "b.safetensors"}
"#;
    let output = batch(path, list, &["--output-dir", "out"]);
    ok(&output);
    assert!(
        text(&output).contains("2 of 2 jobs done"),
        "{}",
        text(&output)
    );
    let out = path.join("out");
    assert_eq!(
        names(&out),
        [
            "a.safetensors",
            "a.safetensors.json",
            "b.safetensors",
            "b.safetensors.json"
        ]
    );
    assert_eq!(
        json(&out.join("b.safetensors.json"))["seeds"],
        serde_json::json!([2, 3])
    );
    let alone = [
        "generate",
        "--quiet",
        "--image",
        "image.png",
        "--prompt",
        "a",
        "--seed",
        "1",
        "--output",
        "x.safetensors",
    ];
    ok(&program(path, &[&alone, &SMALL[..]].concat()));
    assert!(bytes(&path.join("x.safetensors")) == bytes(&out.join("a.safetensors")));
    // A sidecar of a job repeats it, too.
    let repeat = [
        "generate",
        "--quiet",
        "--from",
        "out/b.safetensors.json",
        "--output",
        "y.safetensors",
    ];
    ok(&program(path, &repeat));
    assert!(bytes(&path.join("y.safetensors")) == bytes(&out.join("b.safetensors")));
}

#[test]
fn what_is_done_is_not_done_again() {
    let folder = temporary();
    let path = folder.path();
    let list = r#"{"image": "image.png", "prompt": "a", "output": "a.gif"}
{"image": "image.png", "prompt": "b", "output": "b.gif"}"#;
    ok(&batch(path, list, &[]));
    let first = |name: &str| bytes(&path.join(name));
    let (a, b) = (first("a.gif"), first("b.gif.json"));
    // b has lost its end, as after a copy that was cut off.
    let whole = first("b.gif");
    std::fs::write(path.join("b.gif"), &whole[..whole.len() / 2]).expect("written");
    let output = batch(path, list, &[]);
    ok(&output);
    assert!(
        text(&output).contains("line 1: a.gif is there already"),
        "{}",
        text(&output)
    );
    assert!(!text(&output).contains("b.gif is there already"));
    assert_eq!(first("a.gif"), a);
    assert_ne!(
        first("b.gif.json"),
        b,
        "made anew, with another seed from the clock"
    );
    // Without its sidecar a video is not done.
    std::fs::remove_file(path.join("a.gif.json")).expect("removed");
    ok(&batch(path, list, &["--quiet"]));
    assert!(path.join("a.gif.json").exists());
    // A job that has become another is told, but not made over the old one.
    let changed = list.replace("\"b\"", "\"c\"");
    let output = batch(path, &changed, &[]);
    ok(&output);
    assert!(
        text(&output).contains("with another prompt"),
        "{}",
        text(&output)
    );
    assert_eq!(json(&path.join("b.gif.json"))["prompt"], "b");
}

#[test]
fn a_failed_job_does_not_stop_the_others() {
    let folder = temporary();
    let path = folder.path();
    let list = r#"{"image": "none.png", "prompt": "a", "output": "a.gif"}
{"image": "image.png", "prompt": "b", "decode_chunk_size": 0, "output": "b.gif"}
{"image": "image.png", "prompt": "c", "output": "c.gif"}
{"prompt": "d", "output": "d.gif"}"#;
    let output = batch(path, list, &["--quiet"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("line 1: error: image 'none.png' does not exist"),
        "{said}"
    );
    assert!(
        said.contains("line 2: error: --decode-chunk-size"),
        "{said}"
    );
    assert!(said.contains("line 4: error: --image"), "{said}");
    assert!(
        said.contains("3 of 4 jobs failed, of line 1, 2, 4"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 4, "{said}");
    assert_eq!(
        names(path),
        ["c.gif", "c.gif.json", "image.png", "jobs.jsonl"]
    );
}

#[test]
fn what_counts_more() {
    let folder = temporary();
    let path = folder.path();
    std::fs::write(
        path.join("c.toml"),
        "num_frames = 3\nguidance_scale = 2.0\nseed = 9\n",
    )
    .expect("written");
    let list = r#"{"image": "image.png", "prompt": "a", "num_frames": 5, "num_inference_steps": 2, "guidance_scale": 1.5, "cache_interval": 2, "output": "a.gif"}"#;
    ok(&batch(path, list, &["--config", "c.toml", "--quiet"]));
    let sidecar = json(&path.join("a.gif.json"));
    assert_eq!(sidecar["num_frames"], 2, "the command line");
    assert_eq!(sidecar["num_inference_steps"], 1, "the command line");
    assert_eq!(sidecar["guidance_scale"], 1.5, "the line");
    assert_eq!(sidecar["arguments"]["cache_interval"], 2, "the line");
    assert_eq!(sidecar["seed"], 9, "the config file");
}

#[test]
fn shards() {
    let folder = temporary();
    let path = folder.path();
    let line = |name: &str| {
        format!("{{\"image\": \"image.png\", \"prompt\": \"a\", \"output\": \"{name}.png\"}}\n")
    };
    let list: String = ["1", "2", "3"].map(line).concat();
    ok(&batch(path, &list, &["--shard", "2/2", "--quiet"]));
    assert!(
        path.join("2.png").exists() && !path.join("1.png").exists() && !path.join("3.png").exists()
    );
    ok(&batch(path, &list, &["--shard", "1/2", "--quiet"]));
    assert!(path.join("1.png").exists() && path.join("3.png").exists());
    ok(&batch(path, &list, &["--shard", "9/9", "--quiet"]));
    for shard in ["5/4", "0/4", "1", "a/b", "1/0"] {
        bad(&batch(path, &list, &["--shard", shard]), "--shard");
    }
}

#[test]
fn bad_lists_are_refused_before_anything_is_done() {
    let folder = temporary();
    let path = folder.path();
    let good = r#"{"image": "image.png", "prompt": "a", "output": "a.gif"}"#;
    for (second, says) in [
        (r#"{"image": "#, "line 3"),
        ("[]", "line 3"),
        (
            r#"{"image": "image.png", "promt": "a", "output": "b.gif"}"#,
            "line 3: unknown field `promt`",
        ),
        (
            r#"{"image": 3, "prompt": "a", "output": "b.gif"}"#,
            "line 3: expected a value or a list",
        ),
        (
            r#"{"image": "image.png", "prompt": "a"}"#,
            "line 3: has no output",
        ),
        (
            r#"{"image": "image.png", "prompt": ["b", "c"], "output": "a.gif"}
{"image": "image.png", "prompt": "d", "output": "a-1.gif"}"#,
            "so does line 3",
        ),
        (
            r#"{"image": "image.png", "prompt": "b", "output": "./a.gif"}"#,
            "line 3: writes",
        ),
        (
            r#"{"image": "image.png", "prompt": "b", "output": "b.gif", "dtype": "f16"}"#,
            "line 3: has another model",
        ),
    ] {
        let list = format!("{good}\n\n{second}\n");
        bad(&batch(path, &list, &[]), says);
        assert_eq!(names(path), ["image.png", "jobs.jsonl"], "{second}");
    }
    bad(&batch(path, "\n", &[]), "holds no jobs");
    bad(
        &batch(path, good, &["--output-dir", "image.png"]),
        "--output-dir",
    );
    bad(&program(path, &["batch", "none.jsonl"]), "does not exist");
    bad(&program(path, &["batch", "."]), "is a folder");
    std::fs::write(path.join("jobs.jsonl"), [b'"', 0xff]).expect("written");
    bad(&program(path, &["batch", "jobs.jsonl"]), "is not text");
}

#[test]
fn a_chain_of_continuations() {
    let folder = temporary();
    let path = folder.path();
    let list = r#"{"image": "image.png", "prompt": "a", "seed": 7, "output": "1.png"}
{"continue_from": "1.png.json", "output": "2.png"}
{"continue_from": "2.png.json", "prompt": "b", "output": "3.png"}"#;
    ok(&batch(path, list, &["--quiet"]));
    let last = json(&path.join("3.png.json"));
    assert_eq!((&last["seed"], &last["prompt"]), (&9.into(), &"b".into()));
}
