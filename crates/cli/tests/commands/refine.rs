//! The second stage. Its numbers are tested where it is computed.

use std::path::Path;

use crate::{
    bad, bytes,
    common::{names, temporary},
    json, ok, program, run,
};

/// Made for the demo model's text encoder and VAE.
const SECOND: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../tests/goldens/video_to_video/model"
);

const RUN: [&str; 8] = [
    "--image",
    "image.png",
    "--prompt",
    "a",
    "--num-inference-steps",
    "4",
    "--seed",
    "1",
];

fn refine(folder: &Path, more: &[&str]) -> std::process::Output {
    let always = ["refine", "--quiet", "--model", SECOND, "--base", "embedded"];
    program(folder, &[&always, more].concat())
}

#[test]
fn in_one_command() {
    let folder = temporary();
    let path = folder.path();
    let make = |output: &str, more: &[&str]| {
        ok(&run(
            path,
            &[&RUN[..], &["--output", output], more].concat(),
        ));
        bytes(&path.join(output))
    };
    let base = make("base.npy", &[]);
    let own = make("own.npy", &["--refine", "self"]);
    let more = make("more.npy", &["--refine", "self", "--refine-strength", "1"]);
    let prompt = ["--refine", "self", "--refine-prompt", "a blue square"];
    let prompt = make("prompt.npy", &prompt);
    let second = ["--refine", SECOND, "--refine-steps", "3"];
    let second = make("second.npy", &second);
    let all = [base, own.clone(), more, prompt, second.clone()];
    for (i, video) in all.iter().enumerate() {
        assert!(!all[..i].contains(video), "{i} is one of those before");
    }
    let sidecar = json(&path.join("own.npy.json"));
    assert_eq!(sidecar["arguments"]["refine"], "self");
    assert!(sidecar["seconds"]["refine"].as_f64() > Some(0.0));
    for (name, video) in [("own", own), ("second", second)] {
        let from = format!("{name}.npy.json");
        let again = [
            "generate",
            "--quiet",
            "--from",
            &from,
            "--output",
            "again.npy",
        ];
        ok(&program(path, &again));
        assert_eq!(bytes(&path.join("again.npy")), video, "{name}");
    }
}

#[test]
fn the_demo_refines_itself() {
    let folder = temporary();
    let path = folder.path();
    let demo = |output: &str, more: &[&str]| {
        let few = ["demo", "--quiet", "--num-inference-steps", "3", "--output"];
        ok(&program(path, &[&few[..], &[output], more].concat()));
        bytes(&path.join(output))
    };
    let refined = demo("b.gif", &["--refine", "self"]);
    assert_ne!(demo("a.gif", &[]), refined);
    assert!(refined.starts_with(b"GIF89a"));
}

#[test]
fn videos_of_every_kind() {
    let folder = temporary();
    let path = folder.path();
    let quick = ["--num-inference-steps", "3", "--seed", "2", "--prompt", "a"];
    for input in [
        "a.gif",
        "a.png",
        "a.webp",
        "a.npy",
        "a.mp4",
        "a.safetensors",
        "frames",
    ] {
        if cfg!(not(feature = "mp4")) && input == "a.mp4" {
            continue;
        }
        ok(&run(path, &[&RUN[..], &["--output", input]].concat()));
        let output = format!("{input}.refined.npy");
        let files = ["--video", input, "--output", &output];
        ok(&refine(path, &[&quick[..], &files].concat()));
        let sidecar = json(&path.join(format!("{output}.json")));
        assert_eq!(sidecar["steps_made"], 1, "0.6 of 3");
        assert_eq!(sidecar["seed"], 2);
    }
    // Lossless ones give the same.
    let refined = |name: &str| bytes(&path.join(format!("{name}.refined.npy")));
    assert_eq!(refined("a.png"), refined("a.webp"));
    assert_eq!(refined("a.png"), refined("frames"));

    // Latents in, latents out; parts; another size; less memory.
    let latents = ["--output-type", "latent", "--output", "l.safetensors"];
    ok(&run(path, &[&RUN[..], &latents].concat()));
    let files = ["--video", "l.safetensors", "--output", "m.safetensors"];
    let kind = ["--output-type", "latent", "--memory", "min"];
    ok(&refine(path, &[&quick[..], &files, &kind].concat()));
    let files = ["--video", "a.png", "--output", "large.gif"];
    let size = ["--height", "48", "--width", "64", "--window-size", "80"];
    ok(&refine(path, &[&quick[..], &files, &size].concat()));
    let large = i2vgen_pipeline::Video::open(path.join("large.gif")).expect("opens");
    assert_eq!(large.shape(), [1, 2, 48, 64]);
}

#[test]
fn what_cannot_be_refined() {
    let folder = temporary();
    let path = folder.path();
    ok(&run(path, &[&RUN[..], &["--output", "a.png"]].concat()));
    std::fs::write(
        path.join("audio.mp4"),
        b"\0\0\0\x18ftypisom\0\0\0\0isomM4A ",
    )
    .expect("written");
    if cfg!(feature = "mp4") {
        // A whole file whose only track says that it is sound.
        ok(&run(path, &[&RUN[..], &["--output", "v.mp4"]].concat()));
        let mut file = bytes(&path.join("v.mp4"));
        // The header's handler: version and flags, four zeros, the kind.
        let handler = |w: &[u8]| w.starts_with(b"hdlr") && w.ends_with(b"vide");
        let at = file.windows(16).position(handler).expect("a track");
        file[at + 12..at + 16].copy_from_slice(b"soun");
        std::fs::write(path.join("sound.mp4"), file).expect("written");
        bad(
            &refine(path, &["--video", "sound.mp4", "--output", "b.gif"]),
            "sound.mp4",
        );
    }
    std::fs::create_dir(path.join("mixed")).expect("made");
    for (name, side) in [("1.png", 16), ("2.png", 24)] {
        let image = image::RgbImage::new(side, side);
        image.save(path.join("mixed").join(name)).expect("written");
    }
    std::fs::create_dir(path.join("empty")).expect("made");
    let before = names(path);
    let video = |input: &'static str| ["--video", input, "--output", "b.gif"];
    for (arguments, says) in [
        (&video("none.mp4")[..], "none.mp4"),
        (&video("audio.mp4"), "audio.mp4"),
        (&video("mixed"), "mixed"),
        (&video("empty"), "empty"),
        (&["--video", "a.png", "--output", "b.txt"], "b.txt"),
        (&["--video", "a.png", "--output", "a.png"], "input"),
        (
            &["--video", "a.png", "--output", "b.gif", "--strength", "0"],
            "--strength",
        ),
        (
            &[
                "--video",
                "a.png",
                "--output",
                "b.gif",
                "--strength",
                "1.01",
            ],
            "--strength",
        ),
        (
            &[
                "--video",
                "a.png",
                "--output",
                "b.gif",
                "--num-inference-steps",
                "0",
            ],
            "at least 1",
        ),
        (
            &[
                "--video",
                "a.png",
                "--output",
                "b.gif",
                "--scheduler",
                "magic",
            ],
            "magic",
        ),
        (
            &[
                "--video",
                "a.png",
                "--output",
                "b.gif",
                "--window-size",
                "0",
            ],
            "windows",
        ),
        (
            &[
                "--video", "a.png", "--output", "b.gif", "--height", "33", "--width", "32",
            ],
            "32x32",
        ),
    ] {
        bad(&refine(path, arguments), says);
    }
    let first_stage = ["--model", "embedded"];
    for (model, says) in [
        (&first_stage[..], "self"),
        (&["--model", "self"], "--refine self"),
    ] {
        let rest = ["--video", "a.png", "--output", "b.gif"];
        bad(
            &program(path, &[&["refine", "--quiet"], model, &rest].concat()),
            says,
        );
    }
    let alone = ["refine", "--quiet", "--model", SECOND];
    bad(
        &program(path, &[&alone[..], &video("a.png")].concat()),
        "base",
    );
    for (more, says) in [
        (
            &["--refine-strength", "0.5"][..],
            "--refine, which is missing",
        ),
        (
            &["--refine", "self", "--refine-strength", "2"],
            "--refine-strength",
        ),
        (
            &["--refine", "self", "--refine-steps", "0"],
            "--refine-steps",
        ),
        (&["--refine", "nowhere"], "nowhere"),
        (&["--refine", "empty"], "UNet3DConditionModel"),
    ] {
        bad(
            &run(path, &[&RUN[..], &["--output", "b.gif"], more].concat()),
            says,
        );
    }
    assert_eq!(names(path), before);
}
