//! LoRA files of every layout against PEFT's own merge (`goldens/lora/generate.py`).

#[path = "lora/exact.rs"]
mod exact;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use i2vgen_weights_converter::{Component, Conversion, Lora, Options, Source, Trio, inspect};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

type Tensors = BTreeMap<String, Vec<f32>>;

fn read(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let values = |data: &[u8]| {
        data.as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect()
    };
    file.tensors()
        .into_iter()
        .map(|(k, t)| (k, values(t.data())))
        .collect()
}

fn base() -> Conversion {
    let file = |name| Some(goldens().join("originals").join(name));
    let trio = Trio {
        unet: file("unet.pth"),
        vae: None,
        clip: file("clip.bin"),
    };
    let configs = goldens().join("originals/configs");
    let only = [Component::Unet, Component::TextEncoder];
    Conversion::trio(&trio, Some(&configs), Some(&only)).unwrap()
}

/// UNet and text encoder in f32, with these LoRAs.
fn convert(loras: &[(&Path, f32)]) -> (Tensors, Tensors) {
    let dir = tempfile::tempdir().unwrap();
    let mut conversion = base();
    for (path, strength) in loras {
        let skipped = conversion
            .merge(&Lora::open(path, *strength).unwrap(), false)
            .unwrap();
        assert!(skipped.is_empty());
    }
    let options = Options {
        dtype: Some(Dtype::F32),
        ..Options::default()
    };
    let output = dir.path().join("out");
    conversion.write(&output, &options, &mut |_| {}).unwrap();
    let unet = read(&output.join("unet/diffusion_pytorch_model.safetensors"));
    (unet, read(&output.join("text_encoder/model.safetensors")))
}

fn near(a: &[f32], b: &[f32]) -> bool {
    a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 2e-6)
}

/// The weights that PEFT changed are as PEFT made them, all others are untouched.
fn check(found: &Tensors, base: &Tensors, expected: &Tensors, case: &str) {
    let mut changed = 0;
    for (key, values) in found {
        let Some(want) = expected.get(&format!("{case}.{key}")) else {
            assert_eq!(values, &base[key], "{key} must not change");
            continue;
        };
        assert_ne!(values, &base[key], "{key} must change");
        assert_eq!(values.len(), want.len(), "{case} {key}");
        assert!(near(values, want), "{case} {key}");
        changed += 1;
    }
    let wanted = expected
        .keys()
        .filter(|k| k.starts_with(&format!("{case}.")))
        .count();
    assert_eq!(changed, wanted, "{case}");
}

#[test]
fn every_layout_gives_what_peft_gives() {
    let expected = read(&goldens().join("lora/expected.safetensors"));
    let (unet, text) = convert(&[]);
    let lora = |name: &str| goldens().join("lora").join(name);
    for name in ["diffusers.safetensors", "kohya.safetensors", "kohya.pt"] {
        let (found_unet, found_text) = convert(&[(&lora(name), 1.0)]);
        check(&found_unet, &unet, &expected, "peft_unet");
        check(&found_text, &text, &expected, "peft_text");
    }
    let (found, other) = convert(&[(&lora("kohya_original.safetensors"), 1.0)]);
    check(&found, &unet, &expected, "peft_unet");
    assert_eq!(other, text);
    let (found, _) = convert(&[(&lora("peft_unet/adapter_model.safetensors"), 1.0)]);
    check(&found, &unet, &expected, "peft_unet");
    for case in ["peft_text", "peft_rslora"] {
        let (_, found) = convert(&[(&lora(case).join("adapter_model.safetensors"), 1.0)]);
        check(&found, &text, &expected, case);
    }
    // This layout knows attention only.
    let attention = |(key, values): (&String, &Vec<f32>)| {
        (key.contains(".to_") && !key.contains("proj")).then(|| (key.clone(), values.clone()))
    };
    let expected: Tensors = expected.iter().filter_map(attention).collect();
    let (found, _) = convert(&[(&lora("diffusers_old.safetensors"), 1.0)]);
    check(&found, &unet, &expected, "peft_unet");
}

#[test]
fn strengths_add_up_and_zero_changes_nothing() {
    let path = goldens().join("lora/kohya.safetensors");
    let (unet, text) = convert(&[]);
    assert_eq!(convert(&[(&path, 0.0)]), (unet.clone(), text));
    let (once, _) = convert(&[(&path, 1.0)]);
    let (thrice, _) = convert(&[(&path, 0.75), (&path, -0.25), (&path, 0.5)]);
    for (key, want) in &once {
        assert!(near(&thrice[key], want), "{key}");
    }
    assert_ne!(once, unet);
}

type Shapes<'a> = &'a [(&'a str, &'a [usize])];

/// Writes f32 tensors of zeros.
fn write(path: &Path, tensors: Shapes<'_>) {
    let zeros = vec![0; 1 << 20];
    let view = |shape: &[usize]| {
        let bytes = shape.iter().product::<usize>() * 4;
        TensorView::new(Dtype::F32, shape.to_vec(), &zeros[..bytes]).unwrap()
    };
    let views = tensors.iter().map(|(name, shape)| (*name, view(shape)));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

#[test]
fn what_does_not_fit_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lora.safetensors");
    let q = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q";
    let (down, up) = (format!("{q}.lora_A.weight"), format!("{q}.lora_B.weight"));
    let cases: &[(Shapes<'_>, &str)] = &[
        (&[(&down, &[4, 32])], "has no up matrix"),
        (&[("a.weight", &[4, 32])], "not a LoRA"),
        (&[(&down, &[4, 768]), (&up, &[32, 4])], "does not fit"),
        (&[(&down, &[4, 32]), (&up, &[32, 5])], "does not fit"),
        (&[(&down, &[0, 32]), (&up, &[32, 0])], "does not fit"),
        (&[(&down, &[]), (&up, &[])], "does not fit"),
        (
            &[
                (&down, &[4, 32]),
                (&up, &[32, 4]),
                ("b.lora_A.weight", &[4, 4]),
                ("b.lora_B.weight", &[4, 4]),
            ],
            "fit nowhere (b.lora_A.weight, b.lora_B.weight)",
        ),
        (
            &[(&down, &[4, 32]), (&up, &[32, 4]), ("noise", &[1])],
            "fit nowhere (noise)",
        ),
        (
            &[("b.lora_A.weight", &[4, 4]), ("b.lora_B.weight", &[4, 4])],
            "none of its layers",
        ),
        (
            &[
                (&down, &[4, 32]),
                (&up, &[32, 4]),
                (&format!("{q}.lora_magnitude_vector"), &[32]),
            ],
            "DoRA",
        ),
        (&[("lora_unet_a.lora_mid.weight", &[4, 4, 3, 3])], "Tucker"),
        (
            &[
                (&down, &[4, 32]),
                (&up, &[32, 4]),
                (&format!("{q}.alpha"), &[2]),
            ],
            "not a number",
        ),
        (
            &[
                (&down, &[4, 32]),
                (&up, &[32, 4]),
                (&format!("{q}.lora.down.weight"), &[4, 32]),
            ],
            "twice",
        ),
        (
            // Without a rank there are no values, and the product of the rest is beyond any number.
            &[(&down, &[0, 1 << 40, 1 << 40]), (&up, &[32, 0])],
            "does not fit",
        ),
    ];
    for (tensors, message) in cases {
        write(&path, tensors);
        let result = Lora::open(&path, 1.0).and_then(|lora| base().merge(&lora, false));
        let error = result.expect_err(message).to_string();
        assert!(
            error.contains(message) && error.lines().count() == 1,
            "{message}: {error}"
        );
    }
    write(&path, cases[6].0);
    let skipped = base()
        .merge(&Lora::open(&path, 1.0).unwrap(), true)
        .unwrap();
    assert_eq!(skipped, ["b.lora_A.weight", "b.lora_B.weight"]);
}

/// `inspect` tells a LoRA from a model, whatever its modules are called.
#[test]
fn inspection_knows_them() {
    for name in [
        "diffusers.safetensors",
        "diffusers_old.safetensors",
        "kohya.safetensors",
        "kohya.pt",
        "kohya_original.safetensors",
        "peft_unet",
        "peft_text",
        "peft_rslora/adapter_model.safetensors",
    ] {
        let path = goldens().join("lora").join(name);
        let report = inspect(&path, true).unwrap();
        assert!(report.is_sound(), "{report}");
        let [part] = report.components.as_slice() else {
            panic!("{report}");
        };
        assert_eq!(part.component, None);
        assert!(part.lora.is_some_and(|layers| layers > 0));
        let command = report.convert.as_deref().unwrap();
        assert!(command.contains("--lora '"), "{command}");
        assert!(report.to_string().contains(" layers"), "{report}");
    }
    let file = goldens().join("lora/peft_unet/adapter_model.safetensors");
    let error = Source::open(&file).unwrap().component().unwrap_err();
    assert!(
        error.to_string().contains("merge it with --lora"),
        "{error}"
    );
    // One that cannot be merged.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lora.safetensors");
    write(&path, &[("a.hada_w1_a", &[4, 4])]);
    let report = inspect(&path, false).unwrap();
    assert!(
        !report.is_sound() && report.problems[0].contains("LoHa"),
        "{report}"
    );
    assert_eq!(report.convert, None);
}

#[test]
fn the_argument_may_have_a_strength() {
    let parse = Lora::parse_argument;
    assert_eq!(parse("a.safetensors"), Ok(("a.safetensors".into(), 1.0)));
    assert_eq!(
        parse("a.safetensors:0.5"),
        Ok(("a.safetensors".into(), 0.5))
    );
    assert_eq!(parse("c:\\a.pt:-1"), Ok(("c:\\a.pt".into(), -1.0)));
    for bad in ["a.pt:x", "a.pt:nan", "a.pt:inf", "a.pt:"] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}
