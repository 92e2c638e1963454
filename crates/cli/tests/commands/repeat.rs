//! A sidecar holds all that is needed to make its video again, bit for bit.

use crate::{
    bad, bytes,
    common::{names, temporary},
    json, ok, picture, program, run,
};

#[test]
fn the_same_bytes_also_of_a_seed_from_the_clock() {
    let folder = temporary();
    let path = folder.path();
    let first = [
        "--image",
        "image.png",
        "--prompt",
        "a red circle",
        "--prompt",
        "a blue square",
        "--negative-prompt",
        "grey",
        "--num-inference-steps",
        "2",
        "--guidance-scale",
        "3.7",
        "--guidance-start",
        "0.2",
        "--guidance-rescale",
        "0.3",
        "--eta",
        "0.5",
        "--compat",
        "vgen",
        "--target-fps",
        "7.3",
        "--output",
        "a.safetensors",
    ];
    for seeds in [&[][..], &["--seed", "18446744073709551615", "--seed", "2"]] {
        ok(&run(path, &[&first[..], seeds].concat()));
        let elsewhere = path.join("elsewhere");
        std::fs::create_dir_all(&elsewhere).expect("made");
        let repeat = [
            "generate",
            "--quiet",
            "--from",
            "../a.safetensors.json",
            "--output",
            "b.safetensors",
        ];
        ok(&program(&elsewhere, &repeat));
        assert!(bytes(&path.join("a.safetensors")) == bytes(&elsewhere.join("b.safetensors")));
        let (a, b) = (
            json(&path.join("a.safetensors.json")),
            json(&elsewhere.join("b.safetensors.json")),
        );
        for key in [
            "seed",
            "seeds",
            "prompt",
            "image",
            "eta",
            "model_sha256",
            "target_fps",
        ] {
            assert!(!a[key].is_null(), "{key}");
            if key != "image" {
                assert_eq!(a[key], b[key], "{key}");
            }
        }
    }
}

#[test]
fn the_command_line_counts_more_than_the_sidecar() {
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
        "3",
        "--output",
        "a.safetensors",
        "--save-latents",
        "l.safetensors",
    ];
    ok(&run(path, &first));
    let latents = bytes(&path.join("l.safetensors"));
    let repeat = |more: &[&str]| {
        let from = ["generate", "--quiet", "--from", "a.safetensors.json"];
        program(path, &[&from[..], more].concat())
    };
    ok(&repeat(&["--seed", "4", "--output", "b.safetensors"]));
    let (a, b) = (
        json(&path.join("a.safetensors.json")),
        json(&path.join("b.safetensors.json")),
    );
    assert_eq!((&a["seed"], &b["seed"]), (&3.into(), &4.into()));
    assert_eq!(a["arguments"]["image"], b["arguments"]["image"]);
    assert!(bytes(&path.join("a.safetensors")) != bytes(&path.join("b.safetensors")));
    // What the first run wrote is not written again.
    assert_eq!(bytes(&path.join("l.safetensors")), latents);
    bad(&repeat(&[]), "--output");
}

#[test]
fn the_demo_can_be_repeated() {
    let folder = temporary();
    let path = folder.path();
    let demo = [
        "demo",
        "--quiet",
        "--num-inference-steps",
        "2",
        "--output",
        "a.safetensors",
    ];
    ok(&program(path, &demo));
    let repeat = [
        "generate",
        "--quiet",
        "--from",
        "a.safetensors.json",
        "--output",
        "b.safetensors",
    ];
    ok(&program(path, &repeat));
    assert!(bytes(&path.join("a.safetensors")) == bytes(&path.join("b.safetensors")));
    let sidecar = json(&path.join("a.safetensors.json"));
    assert_eq!(sidecar["image"], "embedded");
    assert_eq!(sidecar["num_inference_steps"], 2);
}

#[test]
fn bad_sidecars() {
    let folder = temporary();
    let path = folder.path();
    picture(path);
    for (text, says) in [
        ("{", "is not JSON"),
        ("GIF89a", "is not JSON"),
        ("{}", "has no \"arguments\""),
        (r#"{"arguments": {"heigth": 3}}"#, "unknown field `heigth`"),
        (r#"{"arguments": {"height": "3"}}"#, "bad arguments"),
        (r#"{"arguments": 3}"#, "bad arguments"),
    ] {
        std::fs::write(path.join("s.json"), text).expect("written");
        let before = names(path);
        bad(&run(path, &["--from", "s.json", "--output", "a.gif"]), says);
        assert_eq!(names(path), before);
    }
    bad(
        &run(path, &["--from", ".", "--output", "a.gif"]),
        "is a folder",
    );
    bad(
        &run(path, &["--from", "none", "--output", "a.gif"]),
        "does not exist",
    );
    std::fs::write(path.join("s.json"), [0xff, 0xfe, 0]).expect("written");
    bad(
        &run(path, &["--from", "s.json", "--output", "a.gif"]),
        "is not text",
    );
}
