//! Samplers, FreeU, tiles and previews. Their numbers are tested where they are computed; here, that they are asked for.

use safetensors::SafeTensors;

use crate::{
    bad, bytes,
    common::{names, temporary},
    ok, picture, program, run,
};

const RUN: [&str; 8] = [
    "--image",
    "image.png",
    "--prompt",
    "a",
    "--num-inference-steps",
    "3",
    "--seed",
    "1",
];

#[test]
fn every_choice_changes_the_video_and_is_repeated() {
    let folder = temporary();
    let path = folder.path();
    let frames = |name: &str| {
        let bytes = bytes(&path.join(name));
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        file.tensor("frames").expect("frames").data().to_vec()
    };
    ok(&run(
        path,
        &[&RUN[..], &["--output", "base.safetensors"]].concat(),
    ));
    let mut seen = vec![frames("base.safetensors")];
    for choice in [
        &["--scheduler", "unipc"][..],
        &["--scheduler", "unipc", "--solver-order", "1"],
        &["--scheduler", "dpmsolver++"],
        &["--scheduler", "dpmsolver++", "--karras-sigmas"],
        &["--scheduler", "sde-dpmsolver++"],
        &["--scheduler", "Euler-Ancestral"],
        &["--scheduler", "HeunDiscreteScheduler"],
        &["--freeu", "0.9,0.2,1.4,1.6"],
        &["--cache-interval", "2"],
        &["--cache-interval", "3", "--split-guidance"],
        &["--dtype", "f16"],
        &["--dtype", "bf16"],
        &["--vae-tile-size", "16"],
        &[
            "--vae-tiling",
            "--vae-tile-size",
            "16",
            "--vae-tile-overlap",
            "0.5",
        ],
    ] {
        ok(&run(
            path,
            &[&RUN[..], choice, &["--output", "a.safetensors"]].concat(),
        ));
        let made = frames("a.safetensors");
        assert!(!seen.contains(&made), "{choice:?} changes nothing");
        let repeat = [
            "generate",
            "--quiet",
            "--from",
            "a.safetensors.json",
            "--output",
            "b.safetensors",
        ];
        ok(&program(path, &repeat));
        assert!(
            frames("b.safetensors") == made,
            "{choice:?} is not repeated"
        );
        seen.push(made);
    }
    for same in [
        "--vae-slicing",
        "--keep-resident",
        "--threads=1",
        "--cache-interval=1",
    ] {
        ok(&run(
            path,
            &[&RUN[..], &[same, "--output", "a.safetensors"]].concat(),
        ));
        assert!(
            frames("a.safetensors") == seen[0],
            "{same} changes something"
        );
    }
}

#[test]
fn choices_that_do_not_exist() {
    let folder = temporary();
    let path = folder.path();
    picture(path);
    let before = names(path);
    for (choice, says) in [
        (&["--scheduler", "magic"][..], "--scheduler"),
        (&["--scheduler", "ddim", "--karras-sigmas"], "karras"),
        (&["--scheduler", "euler", "--solver-order", "2"], "solver"),
        (&["--scheduler", "unipc", "--solver-order", "9"], "solver"),
        (&["--solver-order", "2"], "solver"),
        (&["--freeu", "1,2,nan,4"], "--freeu"),
        (&["--vae-tile-size", "17"], "17"),
        (&["--vae-tile-size", "0"], "0"),
        (&["--vae-tile-size", "16", "--vae-tile-overlap", "1"], "1"),
        (
            &["--vae-tiling", "--vae-tile-overlap", "0.5"],
            "--vae-tile-size",
        ),
        (&["--preview-every", "0"], "--preview-every"),
        (&["--cache-interval", "0"], "--cache-interval: 0"),
        (&["--cache-interval", "x"], "--cache-interval"),
        (&["--cache-interval=-1"], "--cache-interval"),
    ] {
        bad(
            &run(path, &[&RUN[..], choice, &["--output", "a.gif"]].concat()),
            says,
        );
        assert_eq!(names(path), before, "{choice:?}");
    }
}

#[test]
fn previews() {
    let folder = temporary();
    let path = folder.path();
    ok(&run(
        path,
        &[&RUN[..], &["--preview-every", "2", "--output", "a.gif"]].concat(),
    ));
    assert_eq!(
        names(path),
        ["a.gif", "a.gif.json", "a.gif.step-0002.png", "image.png"]
    );
    let preview = image::open(path.join("a.gif.step-0002.png")).expect("a PNG");
    assert_eq!((preview.width(), preview.height()), (32, 32));
}

#[test]
fn less_memory_the_same_video() {
    let folder = temporary();
    let path = folder.path();
    let frames = |name: &str, more: &[&str]| -> Vec<f32> {
        ok(&run(path, &[&RUN[..], &["--output", name], more].concat()));
        let bytes = bytes(&path.join(name));
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        let data = file.tensor("frames").expect("frames").data().to_vec();
        let (words, _) = data.as_chunks::<4>();
        words.iter().map(|b| f32::from_le_bytes(*b)).collect()
    };
    let normal = frames("normal.safetensors", &[]);
    let low = frames("low.safetensors", &["--memory", "low"]);
    let min = frames("min.safetensors", &["--memory", "min"]);
    assert_eq!(low, min);
    let off = normal.iter().zip(&low).map(|(a, b)| (a - b).abs());
    assert!(off.fold(0f32, f32::max) < 1e-5);
    let arguments = |name: &str| crate::json(&path.join(name))["arguments"].clone();
    let min = arguments("min.safetensors.json");
    assert_eq!(min["memory"], "min");
    assert_eq!(
        [&min["stream_unet"], &min["split_guidance"]].map(|v| v == true),
        [true, true]
    );
    // A repeated run may be told otherwise; a single choice counts more than the preset.
    let again = &["--from", "normal.safetensors.json", "--memory", "min"];
    let one = &["--split-guidance=false", "--output", "again.safetensors"];
    ok(&program(
        path,
        &[&["generate", "--quiet"], &again[..], one].concat(),
    ));
    let again = arguments("again.safetensors.json");
    assert_eq!(
        [&again["stream_unet"], &again["split_guidance"]].map(|v| v == true),
        [true, false]
    );
}
