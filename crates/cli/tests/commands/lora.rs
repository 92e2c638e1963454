//! `--lora`.

use std::path::Path;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::{
    bad, bytes,
    common::{MODEL, names, temporary},
    ok, picture, program, run,
};

const ONE: [&str; 8] = [
    "--image",
    "image.png",
    "--prompt",
    "a",
    "--num-inference-steps",
    "1",
    "--seed",
    "1",
];
const LAYER: &str = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q";

/// A LoRA of rank 1 on one layer of the UNet, whose width is multiplied by `factor`.
fn lora(folder: &Path, name: &str, factor: usize) {
    let unet = bytes(&Path::new(MODEL).join("unet/diffusion_pytorch_model.safetensors"));
    let unet = SafeTensors::deserialize(&unet).expect("weights");
    let weight = unet.tensor(&format!("{LAYER}.weight")).expect(LAYER);
    let [rows, columns] = weight.shape() else {
        panic!("a matrix");
    };
    let ones = |n: usize| 1.0f32.to_le_bytes().repeat(n);
    let (down, up) = (ones(columns * factor), ones(*rows));
    let view = |shape: [usize; 2], data| {
        TensorView::new(Dtype::F32, shape.to_vec(), data).expect("a view")
    };
    let tensors = [
        (
            format!("unet.{LAYER}.lora_A.weight"),
            view([1, columns * factor], &down),
        ),
        (format!("unet.{LAYER}.lora_B.weight"), view([*rows, 1], &up)),
    ];
    safetensors::serialize_to_file(tensors, None, &folder.join(name)).expect("written");
}

fn frames(path: &Path) -> Vec<u8> {
    let bytes = bytes(path);
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    file.tensor("frames").expect("frames").data().to_vec()
}

#[test]
fn strengths_add_up_and_are_repeated() {
    let folder = temporary();
    let path = folder.path();
    lora(path, "l.safetensors", 1);
    let make = |name: &str, loras: &[&str]| {
        let flags: Vec<&str> = loras.iter().flat_map(|l| ["--lora", l]).collect();
        ok(&run(
            path,
            &[&ONE[..], &flags, &["--output", name]].concat(),
        ));
        frames(&path.join(name))
    };
    let base = make("a.safetensors", &[]);
    assert!(make("b.safetensors", &["l.safetensors:0"]) == base);
    assert!(
        make(
            "c.safetensors",
            &["l.safetensors:0.5", "l.safetensors:-0.5"]
        ) == base
    );
    let with = make("d.safetensors", &["l.safetensors"]);
    assert!(with != base);
    assert!(make("e.safetensors", &["l.safetensors:1.0"]) == with);
    let scaled = [
        "--lora",
        "l.safetensors:2",
        "--lora-scale",
        "0.5",
        "--output",
        "g.safetensors",
    ];
    ok(&run(path, &[&ONE[..], &scaled].concat()));
    assert!(frames(&path.join("g.safetensors")) == with);
    ok(&program(
        path,
        &[
            "generate",
            "--quiet",
            "--from",
            "e.safetensors.json",
            "--output",
            "f.safetensors",
        ],
    ));
    assert!(frames(&path.join("f.safetensors")) == with);
}

#[test]
fn files_that_do_not_fit() {
    let folder = temporary();
    let path = folder.path();
    picture(path);
    lora(path, "wide.safetensors", 2);
    std::fs::write(path.join("text.safetensors"), "hello").expect("written");
    lora(path, "good.safetensors", 1);
    let good = bytes(&path.join("good.safetensors"));
    let good = SafeTensors::deserialize(&good).expect("a LoRA");
    let one = good.tensors().into_iter().next().expect("a matrix").1;
    let part = |half: &str| (format!("unet.nowhere.lora_{half}.weight"), one.clone());
    let mut tensors = vec![part("A"), part("B")];
    let file = path.join("other.safetensors");
    safetensors::serialize_to_file(tensors.clone(), None, &file).expect("written");
    tensors.extend(good.tensors());
    let file = path.join("more.safetensors");
    safetensors::serialize_to_file(tensors, None, &file).expect("written");
    let before = names(path);
    for file in [
        "wide.safetensors",
        "text.safetensors",
        "other.safetensors",
        "more.safetensors",
        "none.safetensors",
        ".",
    ] {
        bad(
            &run(
                path,
                &[&ONE[..], &["--lora", file, "--output", "a.gif"]].concat(),
            ),
            file.trim_end_matches('.'),
        );
        assert_eq!(names(path), before, "{file}");
    }
    let allowed = [
        "--lora",
        "more.safetensors",
        "--allow-unknown",
        "--output",
        "a.gif",
    ];
    ok(&run(path, &[&ONE[..], &allowed].concat()));
    let unknown = crate::json(&path.join("a.gif.json"))["unknown_lora_keys"].clone();
    assert!(
        unknown.as_array().is_some_and(|keys| !keys.is_empty()),
        "{unknown}"
    );
}
