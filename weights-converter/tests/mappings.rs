//! Each table is a bijection between the full key lists, with equal shapes.

use std::collections::BTreeMap;

use i2vgen_weights_converter::mapping::{
    Mapped, Transform, diffusers, ldm_vae, open_clip, vgen_unet,
};

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

/// Applies a table to all keys of a format: every target exactly once, nothing foreign, shapes as listed; and back, every value of
/// every key is in exactly one target, but for the keys of `other`.
fn check(
    source: BTreeMap<String, Vec<usize>>,
    target: BTreeMap<String, Vec<usize>>,
    map: impl Fn(&str) -> Mapped,
    other: impl Fn(&str) -> bool,
) {
    let count = |shape: &[usize]| shape.iter().product::<usize>();
    let mut found = BTreeMap::new();
    for (key, shape) in &source {
        match map(key) {
            Mapped::To(targets) => {
                assert!(!other(key), "{key} is not a part of it");
                let mut parts: Vec<Transform> = targets.iter().map(|(_, t)| *t).collect();
                parts
                    .sort_by_key(|t| matches!(t, Transform::Rows { .. }).then(|| format!("{t:?}")));
                let rows = (0..parts.len()).map(|part| Transform::Rows {
                    part,
                    of: parts.len(),
                });
                assert!(
                    parts.len() == 1 || parts.iter().copied().eq(rows),
                    "{key}: {parts:?}"
                );
                let before = count(shape);
                let mut after = 0;
                for (name, transform) in targets {
                    let Some(shape) = transform.shape(shape) else {
                        panic!("{key}: {transform:?} of {shape:?}");
                    };
                    after += count(&shape);
                    assert!(
                        found.insert(name.clone(), shape).is_none(),
                        "{name} twice, last from {key}"
                    );
                }
                assert_eq!(after, before, "{key} is not wholly used");
            }
            Mapped::Ignored => assert!(other(key), "{key} is left out"),
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
    check(
        list!("vgen_unet_keys"),
        list!("unet_keys"),
        |k| vgen_unet::map(k, 2),
        |_| false,
    );
}

#[test]
fn ldm_vae_to_diffusers() {
    check(
        list!("vgen_vae_keys"),
        list!("vae_keys"),
        |k| ldm_vae::map(k, 4),
        |_| false,
    );
}

#[test]
fn open_clip_to_transformers() {
    check(
        list!("openclip_keys"),
        list!("clip_text_keys"),
        open_clip::map_text,
        |k| k.starts_with("visual.") || ["text_projection", "logit_scale"].contains(&k),
    );
    check(
        list!("openclip_keys"),
        list!("clip_vision_keys"),
        open_clip::map_vision,
        |k| !k.starts_with("visual."),
    );
}

#[test]
fn diffusers_names_stay() {
    let none = |_: &str| false;
    check(
        list!("unet_keys"),
        list!("unet_keys"),
        diffusers::map_unet,
        none,
    );
    check(
        list!("unet3d_keys"),
        list!("unet3d_keys"),
        diffusers::map_unet,
        none,
    );
    check(
        list!("vae_keys"),
        list!("vae_keys"),
        diffusers::map_vae,
        none,
    );
    check(
        list!("clip_text_keys"),
        list!("clip_text_keys"),
        diffusers::map_text,
        none,
    );
    check(
        list!("clip_vision_keys"),
        list!("clip_vision_keys"),
        diffusers::map_vision,
        none,
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
