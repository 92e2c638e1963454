//! `--continue-from`.

use crate::{
    bad,
    common::{names, temporary},
    json, ok, picture, program, run,
};

#[test]
fn from_latents() {
    let folder = temporary();
    let path = folder.path();
    let first = [
        "--image",
        "image.png",
        "--prompt",
        "a",
        "--num-inference-steps",
        "1",
        "--seed",
        "5",
        "--output",
        "a.safetensors",
        "--save-latents",
        "l.safetensors",
    ];
    ok(&run(path, &first));
    let next = [
        "--continue-from",
        "l.safetensors",
        "--prompt",
        "b",
        "--num-inference-steps",
        "1",
        "--seed",
        "6",
        "--output",
        "b.safetensors",
    ];
    ok(&run(path, &next));
    // The same as from the last decoded frame, but for its rounding to 8 bits: see the unit tests for which frame it is.
    assert_eq!(
        json(&path.join("b.safetensors.json"))["image"],
        "l.safetensors"
    );
}

#[test]
fn from_nothing() {
    let folder = temporary();
    let path = folder.path();
    picture(path);
    std::fs::write(
        path.join("empty.json"),
        r#"{"arguments": {}, "outputs": []}"#,
    )
    .expect("written");
    std::fs::write(
        path.join("lost.json"),
        r#"{"arguments": {}, "outputs": ["x/lost.gif"]}"#,
    )
    .expect("written");
    std::fs::create_dir(path.join("folder")).expect("made");
    let before = names(path);
    for file in [
        "empty.json",
        "lost.json",
        "none.json",
        "none.safetensors",
        "image.txt",
        "folder",
    ] {
        let output = run(
            path,
            &[
                "--continue-from",
                file,
                "--prompt",
                "a",
                "--output",
                "a.gif",
            ],
        );
        bad(&output, "--continue-from");
        assert_eq!(names(path), before);
    }
}

#[test]
fn from_a_sidecar_or_its_video() {
    let folder = temporary();
    let path = folder.path();
    let first = [
        "--image",
        "image.png",
        "--prompt",
        "a",
        "--prompt",
        "b",
        "--negative-prompt",
        "c",
        "--num-inference-steps",
        "2",
        "--guidance-scale",
        "3",
        "--seed",
        "5",
        "--output",
        "a.png",
    ];
    ok(&run(path, &first));
    let next = [
        "generate",
        "--quiet",
        "--continue-from",
        "a.png.json",
        "--output",
        "b.png",
    ];
    ok(&program(path, &next));
    let (a, b) = (
        json(&path.join("a.png.json")),
        json(&path.join("b.png.json")),
    );
    assert_eq!(
        (&b["prompt"], &b["negative_prompt"]),
        (&"a".into(), &"c".into())
    );
    assert_eq!((&a["seed"], &b["seed"]), (&5.into(), &6.into()));
    for key in [
        "height",
        "num_frames",
        "num_inference_steps",
        "guidance_scale",
        "model",
    ] {
        assert_eq!(a[key], b[key], "{key}");
    }
    // Its picture is the last frame of the first video: given as an image, it makes the same.
    let video = i2vgen_pipeline::Video::open(path.join("a-0.png")).expect("a video");
    video
        .frame(0, 1)
        .save(path.join("last.png"))
        .expect("saved");
    let small = [
        "--prompt",
        "a",
        "--negative-prompt",
        "c",
        "--num-inference-steps",
        "2",
        "--guidance-scale",
        "3",
        "--seed",
        "6",
    ];
    ok(&run(
        path,
        &[&small[..], &["--image", "last.png", "--output", "c.png"]].concat(),
    ));
    ok(&run(
        path,
        &[
            &small[..],
            &["--continue-from", "a-0.png", "--output", "d.png"],
        ]
        .concat(),
    ));
    let frames = |name: &str| {
        i2vgen_pipeline::Video::open(path.join(name))
            .expect(name)
            .values()
            .to_vec()
    };
    let b = frames("b.png");
    assert!(frames("c.png") == b && frames("d.png") == b);
    assert!(frames("a-1.png") != b);
    // And it can be repeated.
    ok(&program(
        path,
        &[
            "generate",
            "--quiet",
            "--from",
            "b.png.json",
            "--output",
            "e.png",
        ],
    ));
    assert!(frames("e.png") == b);
    bad(
        &run(
            path,
            &[
                "--continue-from",
                "a-0.png",
                "--prompt",
                "a",
                "--output",
                "a-0.png",
            ],
        ),
        "also an input",
    );
}
