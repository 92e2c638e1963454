//! Several prompts and pictures, embeddings and latents.

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::{
    bad, bytes,
    common::{MODEL, names, temporary},
    json, ok, picture, program, run,
};

const ONE: [&str; 4] = ["--num-inference-steps", "1", "--seed", "1"];

#[test]
fn prompts_and_pictures_go_together() {
    let folder = temporary();
    let path = folder.path();
    picture(path);
    image::RgbImage::from_pixel(40, 30, image::Rgb([9, 200, 9]))
        .save(path.join("green.png"))
        .expect("saved");
    let two = [
        "--image",
        "image.png",
        "--image",
        "green.png",
        "--prompt",
        "a",
        "--prompt",
        "b",
    ];
    ok(&run(
        path,
        &[&ONE[..], &two, &["--output", "v.png"]].concat(),
    ));
    let sidecar = json(&path.join("v.png.json"));
    assert_eq!(
        sidecar["outputs"],
        serde_json::json!(["v-0.png", "v-1.png"])
    );
    assert_eq!(sidecar["prompt"], serde_json::json!(["a", "b"]));
    assert_eq!(
        sidecar["image"],
        serde_json::json!(["image.png", "green.png"])
    );
    let output = ["--output", "w.gif"];
    let before = names(path);
    for (more, says) in [
        (
            &[
                "--image",
                "image.png",
                "--image",
                "green.png",
                "--prompt",
                "a",
            ][..],
            "--image",
        ),
        (
            &[
                "--image",
                "image.png",
                "--prompt",
                "a",
                "--seed",
                "1",
                "--seed",
                "2",
                "--seed",
                "3",
            ],
            "--seed",
        ),
        (
            &[
                "--image",
                "image.png",
                "--prompt",
                "a",
                "--negative-prompt",
                "b",
                "--negative-prompt",
                "c",
            ],
            "--negative-prompt",
        ),
        (
            &[
                "--image",
                "image.png",
                "--prompt",
                "a",
                "--prompt-embeds",
                "x",
            ],
            "--prompt-embeds",
        ),
        (
            &[
                "--image",
                "image.png",
                "--prompt",
                "a",
                "--continue-from",
                "x.json",
            ],
            "--continue-from",
        ),
    ] {
        bad(&run(path, &[&ONE[..], more, &output].concat()), says);
        assert_eq!(names(path), before);
    }
}

#[test]
fn embeddings_in_and_out() {
    let folder = temporary();
    let path = folder.path();
    let image = ["--image", "image.png"];
    let texts = ["--prompt", "a red circle", "--negative-prompt", "grey"];
    let more = [
        "--save-prompt-embeds",
        "e.safetensors",
        "--output",
        "a.safetensors",
    ];
    ok(&run(path, &[&ONE[..], &image, &texts, &more].concat()));
    let embeds = [
        "--prompt-embeds",
        "e.safetensors",
        "--negative-prompt-embeds",
        "e.safetensors",
        "--output",
        "b.safetensors",
    ];
    ok(&run(path, &[&ONE[..], &image, &embeds].concat()));
    assert!(
        frames(&bytes(&path.join("a.safetensors"))) == frames(&bytes(&path.join("b.safetensors")))
    );
    // And again from the sidecar.
    ok(&program(
        path,
        &[
            "generate",
            "--quiet",
            "--from",
            "b.safetensors.json",
            "--output",
            "c.safetensors",
        ],
    ));
    assert!(
        frames(&bytes(&path.join("b.safetensors"))) == frames(&bytes(&path.join("c.safetensors")))
    );

    let before = names(path);
    let refused = |arguments: &[&str], says: &str| {
        bad(
            &run(
                path,
                &[&ONE[..], &image, &["--output", "d.gif"], arguments].concat(),
            ),
            says,
        );
        assert_eq!(names(path), before);
    };
    refused(
        &["--prompt-embeds", "a.safetensors"],
        "no tensor named 'prompt_embeds'",
    );
    refused(&["--prompt-embeds", "."], "is a folder");
    refused(&["--prompt-embeds", "none"], "--prompt-embeds");
    refused(
        &["--prompt", "a", "--negative-prompt-embeds", "image.png"],
        "--negative-prompt-embeds",
    );
    refused(
        &["--prompt", "a", "--save-prompt-embeds", "e.gif"],
        "--save-prompt-embeds",
    );
    refused(
        &[
            "--prompt-embeds",
            "e.safetensors",
            "--save-prompt-embeds",
            "e.safetensors",
        ],
        "also an input",
    );
    refused(
        &["--prompt", "a", "--save-latents", "/nowhere/l.safetensors"],
        "cannot be written",
    );
}

#[test]
fn embeddings_of_another_rank_or_model() {
    let folder = temporary();
    let path = folder.path();
    picture(path);
    for (shape, says) in [
        (&[1, 77][..], "3 axes"),
        (&[1, 77, 5], "another model"),
        (&[1, 1, 1, 64], "3 axes"),
    ] {
        let data = vec![0u8; shape.iter().product::<usize>() * 4];
        let view = TensorView::new(Dtype::F32, shape.to_vec(), &data).expect("a view");
        let file = path.join("e.safetensors");
        safetensors::serialize_to_file([("prompt_embeds", view)], None, &file).expect("written");
        let more = [
            "--image",
            "image.png",
            "--prompt-embeds",
            "e.safetensors",
            "--output",
            "a.gif",
        ];
        bad(&run(path, &[&ONE[..], &more].concat()), says);
        assert!(!path.join("a.gif").exists() && !path.join("a.gif.json").exists());
    }
}

#[test]
fn latents_in_and_out() {
    let folder = temporary();
    let path = folder.path();
    let more = [
        "--image",
        "image.png",
        "--prompt",
        "a",
        "--image-latents",
        "mode",
    ];
    let save = [
        "--save-latents",
        "l.safetensors",
        "--output",
        "a.safetensors",
    ];
    ok(&run(path, &[&ONE[..], &more, &save].concat()));
    let file = bytes(&path.join("l.safetensors"));
    let tensors = SafeTensors::deserialize(&file).expect("safetensors");
    for name in ["initial_latents", "latents"] {
        assert_eq!(tensors.tensor(name).expect(name).shape(), [1, 4, 2, 8, 8]);
    }
    let again = ["--latents", "l.safetensors", "--output", "b.safetensors"];
    ok(&run(
        path,
        &[&["--num-inference-steps", "1"], &more[..], &again].concat(),
    ));
    assert!(
        frames(&bytes(&path.join("a.safetensors"))) == frames(&bytes(&path.join("b.safetensors")))
    );
    let latent = ["--output-type", "latent", "--output", "c.safetensors"];
    ok(&run(path, &[&ONE[..], &more, &latent].concat()));
    let c = bytes(&path.join("c.safetensors"));
    let c = SafeTensors::deserialize(&c).expect("safetensors");
    assert_eq!(
        c.tensor("latents").expect("latents").data(),
        tensors.tensor("latents").expect("latents").data()
    );
}

/// The numbers of the frames, without what a file says about its run.
fn frames(file: &[u8]) -> Vec<u8> {
    let file = SafeTensors::deserialize(file).expect("safetensors");
    file.tensor("frames").expect("frames").data().to_vec()
}

#[test]
fn steps_at_the_edges() {
    let folder = temporary();
    let path = folder.path();
    let more = [
        "--image",
        "image.png",
        "--prompt",
        "a",
        "--output",
        "a.gif",
        "--num-inference-steps",
    ];
    // This model's schedule begins at 1, so that a thousand steps would end one too late, as in the reference.
    for steps in ["0", "1000", "1001"] {
        bad(&run(path, &[&more[..], &[steps]].concat()), steps);
    }
    ok(&run(path, &[&more[..], &["1"]].concat()));
    let tiny = [
        "generate",
        "--quiet",
        "--model",
        MODEL,
        "--height",
        "16",
        "--width",
        "16",
        "--num-frames",
        "1",
        "--guidance-scale",
        "1",
    ];
    ok(&program(path, &[&tiny, &more[..], &["999"]].concat()));
}

#[test]
fn an_output_is_never_without_its_sidecar() {
    let folder = temporary();
    let path = folder.path();
    picture(path);
    std::fs::create_dir(path.join("a.gif.json")).expect("made");
    let before = names(path);
    let more = ["--image", "image.png", "--prompt", "a", "--output", "a.gif"];
    bad(
        &run(path, &[&ONE[..], &more].concat()),
        "the sidecar would go there",
    );
    assert_eq!(names(path), before);
}
