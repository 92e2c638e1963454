//! What is written besides frames: metadata, numbers about the video, estimates.

use i2vgen_pipeline::{Container, read_metadata};

use crate::{
    bad, bytes,
    common::{MODEL, names, temporary},
    json, ok, program, run, text,
};

const RUN: [&str; 8] = [
    "--image",
    "image.png",
    "--prompt",
    "a\u{85}b",
    "--num-inference-steps",
    "1",
    "--seed",
    "1",
];

#[test]
fn every_container_tells_how_it_was_made() {
    let folder = temporary();
    let path = folder.path();
    for name in [
        "a.gif",
        "a.png",
        "a.webp",
        "a.safetensors",
        "folder",
        "a.mp4",
        "a.npy",
    ] {
        if Container::of(name.as_ref()).is_err() {
            continue; // Built without mp4.
        }
        ok(&run(path, &[&RUN[..], &["--output", name]].concat()));
        let sidecar = json(&path.join(format!("{name}.json")));
        let video = &sidecar["videos"][0];
        assert!(
            video["first_frame_similarity"]
                .as_f64()
                .is_some_and(|v| v <= 1.0),
            "{video}"
        );
        assert!(
            video["motion_energy"].as_f64().is_some_and(|v| v > 0.0),
            "{video}"
        );
        let metadata = read_metadata(path.join(name)).expect(name);
        if name == "a.npy" {
            assert_eq!(metadata, None);
            continue;
        }
        let metadata: serde_json::Value =
            serde_json::from_str(&metadata.expect(name)).expect("JSON");
        assert_eq!(metadata["arguments"]["prompt"][0], "a\u{85}b");
        assert_eq!(metadata["arguments"]["seed"][0], 1);
        assert_eq!(
            metadata["arguments"]["image"][0], "image.png",
            "nobody's folders"
        );
        assert_eq!(metadata["arguments"]["model"], "model");
    }
}

#[test]
fn gif_options() {
    let folder = temporary();
    let path = folder.path();
    let mut seen = Vec::new();
    for more in [
        &[][..],
        &["--gif-palette", "per-frame"],
        &["--gif-dither", "none"],
    ] {
        ok(&run(
            path,
            &[&RUN[..], more, &["--output", "a.gif"]].concat(),
        ));
        let made = bytes(&path.join("a.gif"));
        assert!(!seen.contains(&made), "{more:?}");
        seen.push(made);
    }
}

#[test]
fn an_estimate_makes_nothing() {
    let folder = temporary();
    let path = folder.path();
    let estimate = |more: &[&str]| {
        program(
            path,
            &[&["generate", "--model", MODEL, "--estimate"], more].concat(),
        )
    };
    let output = estimate(&["--height", "64", "--width", "64"]);
    ok(&output);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("denoise") && said.contains("FLOP"), "{said}");
    assert!(!said.contains("--refine"), "{said}");
    let refined = estimate(&["--refine", "self"]);
    ok(&refined);
    let said = String::from_utf8_lossy(&refined.stdout).into_owned();
    assert!(said.contains("--refine) comes on top"), "{said}");
    bad(&estimate(&["--height", "33"]), "--height");
    assert!(names(path).is_empty());
}

/// More than any machine has. That the text encoder has fewer layers is noticed later, before any work.
const HUGE: [&str; 20] = [
    "generate",
    "--model",
    MODEL,
    "--image",
    "image.png",
    "--prompt",
    "a",
    "--height",
    "16384",
    "--width",
    "16384",
    "--num-frames",
    "1000",
    "--num-videos-per-prompt",
    "100",
    "--clip-skip",
    "99",
    "--output",
    "a.gif",
    "--quiet",
];

#[test]
fn what_cannot_fit_is_refused() {
    let folder = temporary();
    let path = folder.path();
    crate::picture(path);
    let before = names(path);
    if i2vgen_pipeline::available_memory().is_some() {
        let output = program(path, &HUGE);
        bad(&output, "of memory");
        bad(&output, "--allow-oversize");
        assert_eq!(names(path), before);
    }
}

#[test]
fn who_insists_is_warned() {
    if i2vgen_pipeline::available_memory().is_none() {
        return;
    }
    let folder = temporary();
    let path = folder.path();
    crate::picture(path);
    bad(
        &program(path, &[&HUGE[..], &["--allow-oversize"]].concat()),
        "--clip-skip",
    );
    let loud = &HUGE[..HUGE.len() - 1];
    let said = text(&program(path, &[loud, &["--allow-oversize"]].concat()));
    let warnings: Vec<_> = said.lines().filter(|l| l.starts_with("warning")).collect();
    assert!(
        matches!(warnings[..], [one] if one.contains("of memory")),
        "{said}"
    );
    assert!(said.contains("--clip-skip"), "{said}");

    std::fs::write(path.join("c.toml"), "allow_oversize = true").expect("written");
    let config = ["--config", "c.toml"];
    bad(
        &program(path, &[&HUGE[..], &config].concat()),
        "--clip-skip",
    );
    let taken_back = ["--config", "c.toml", "--allow-oversize=false"];
    bad(
        &program(path, &[&HUGE[..], &taken_back].concat()),
        "of memory",
    );

    let job = r#"{"image": "image.png", "prompt": "a", "height": 16384, "width": 16384, "num_frames": 1000,
        "num_videos_per_prompt": 100, "clip_skip": 99, "output": "a.gif""#;
    let job = job.replace('\n', " ");
    for (insists, says) in [("false", "of memory"), ("true", "--clip-skip")] {
        let line = format!("{job}, \"allow_oversize\": {insists}}}");
        std::fs::write(path.join("jobs.jsonl"), line).expect("written");
        let output = program(path, &["batch", "jobs.jsonl", "--quiet", "--model", MODEL]);
        assert!(!output.status.success());
        assert!(text(&output).contains(says), "{}", text(&output));
    }
}

#[test]
fn insisting_is_not_recorded() {
    let folder = temporary();
    let path = folder.path();
    let more = ["--allow-oversize", "--output", "a.safetensors"];
    ok(&run(path, &[&RUN[..], &more].concat()));
    let sidecar = json(&path.join("a.safetensors.json"));
    assert_eq!(sidecar["arguments"]["seed"][0], 1);
    assert_eq!(sidecar["arguments"].get("allow_oversize"), None);
}
