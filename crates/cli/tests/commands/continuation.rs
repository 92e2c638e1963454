//! `--continue-from`.

use crate::{
    bad,
    common::{names, temporary},
    json, ok, picture, run,
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
    let before = names(path);
    for file in [
        "empty.json",
        "lost.json",
        "none.json",
        "none.safetensors",
        "image.txt",
        ".",
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
