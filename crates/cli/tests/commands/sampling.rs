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
        "--split-guidance",
        "--keep-resident",
        "--threads=1",
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
