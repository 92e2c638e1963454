//! Each table is a bijection between the full key lists, with equal shapes.

use std::collections::BTreeMap;

use i2vgen_weights_converter::mapping::{Mapped, diffusers, ldm_vae, open_clip, vgen_unet};

fn keys(text: &str) -> BTreeMap<String, Vec<usize>> {
    let shape = |s: &str| match s {
        "scalar" => vec![],
        s => s.split('x').map(|n| n.parse().unwrap()).collect(),
    };
    let line = |line: &str| {
        let (key, dims) = line.rsplit_once(' ').unwrap();
        (key.to_owned(), shape(dims))
    };
    text.lines().filter(|l| !l.is_empty()).map(line).collect()
}

macro_rules! list {
    ($name:literal) => {
        keys(include_str!(concat!("keys/", $name, ".txt")))
    };
}

/// Applies a table to all keys of a format: every target exactly once, nothing foreign, shapes as listed.
fn check(
    source: BTreeMap<String, Vec<usize>>,
    target: BTreeMap<String, Vec<usize>>,
    map: impl Fn(&str) -> Mapped,
) {
    let mut found = BTreeMap::new();
    for (key, shape) in &source {
        match map(key) {
            Mapped::To(targets) => {
                for (name, transform) in targets {
                    let Some(shape) = transform.shape(shape) else {
                        panic!("{key}: {transform:?} of {shape:?}");
                    };
                    assert!(
                        found.insert(name.clone(), shape).is_none(),
                        "{name} twice, last from {key}"
                    );
                }
            }
            Mapped::Ignored => {}
            Mapped::Foreign => panic!("{key} is foreign"),
        }
    }
    for (key, shape) in &target {
        assert_eq!(found.get(key), Some(shape), "{key}");
    }
    assert_eq!(found.len(), target.len());
}

#[test]
fn vgen_unet_to_diffusers() {
    check(list!("vgen_unet_keys"), list!("unet_keys"), |k| {
        vgen_unet::map(k, 2)
    });
}

#[test]
fn ldm_vae_to_diffusers() {
    check(list!("vgen_vae_keys"), list!("vae_keys"), |k| {
        ldm_vae::map(k, 4)
    });
}

#[test]
fn open_clip_to_transformers() {
    check(
        list!("openclip_keys"),
        list!("clip_text_keys"),
        open_clip::map_text,
    );
    check(
        list!("openclip_keys"),
        list!("clip_vision_keys"),
        open_clip::map_vision,
    );
}

#[test]
fn diffusers_names_stay() {
    check(list!("unet_keys"), list!("unet_keys"), diffusers::map_unet);
    check(
        list!("unet3d_keys"),
        list!("unet3d_keys"),
        diffusers::map_unet,
    );
    check(list!("vae_keys"), list!("vae_keys"), diffusers::map_vae);
    check(
        list!("clip_text_keys"),
        list!("clip_text_keys"),
        diffusers::map_text,
    );
    check(
        list!("clip_vision_keys"),
        list!("clip_vision_keys"),
        diffusers::map_vision,
    );
}

#[test]
fn foreign_names_are_told() {
    assert_eq!(
        vgen_unet::map("model.layers.0.q.weight", 2),
        Mapped::Foreign
    );
    assert_eq!(
        vgen_unet::map("input_blocks.x.0.in_layers.0.weight", 2),
        Mapped::Foreign
    );
    assert_eq!(
        ldm_vae::map(
            "encoder.down.9999999999999999999999.block.0.norm1.weight",
            4
        ),
        Mapped::Foreign
    );
    assert_eq!(
        open_clip::map_text("bert.embeddings.weight"),
        Mapped::Foreign
    );
}
