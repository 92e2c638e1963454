//! Checkpoints with arbitrary keys and shapes, planned as every component.
#![no_main]

use std::sync::OnceLock;

use arbitrary::Arbitrary;
use i2vgen_weights_converter::{Component, Plan, Source};
use libfuzzer_sys::{Corpus, fuzz_target};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

#[derive(Arbitrary, Debug)]
struct Input {
    component: u8,
    /// Changes of the small config.
    config: Vec<(u8, Option<u16>)>,
    /// Whether all tensors of the component are there to begin with.
    complete: bool,
    changes: Vec<Change>,
    prefix: u8,
}

#[derive(Arbitrary, Debug)]
enum Change {
    Remove(u16),
    Rename(u16, String),
    Reshape(u16, Vec<u8>),
    Add(String, Vec<u8>),
    /// A name of one of the formats.
    Known(u8, u16, Vec<u8>),
    /// A name of one of the formats, changed at one place.
    Nearly(u8, u16, u8, char),
    Dtype(u16, bool),
}

const LISTS: [&str; 8] = [
    include_str!("../../../weights-converter/tests/keys/unet_keys.txt"),
    include_str!("../../../weights-converter/tests/keys/vgen_unet_keys.txt"),
    include_str!("../../../weights-converter/tests/keys/unet3d_keys.txt"),
    include_str!("../../../weights-converter/tests/keys/vae_keys.txt"),
    include_str!("../../../weights-converter/tests/keys/vgen_vae_keys.txt"),
    include_str!("../../../weights-converter/tests/keys/openclip_keys.txt"),
    include_str!("../../../weights-converter/tests/keys/clip_text_keys.txt"),
    include_str!("../../../weights-converter/tests/keys/clip_vision_keys.txt"),
];

const PREFIXES: [&str; 7] = [
    "",
    "module.",
    "state_dict.",
    "model.diffusion_model.",
    "first_stage_model.",
    "cond_stage_model.model.",
    "text_model.",
];

const FIELDS: [&str; 10] = [
    "in_channels",
    "out_channels",
    "layers_per_block",
    "cross_attention_dim",
    "attention_head_dim",
    "num_attention_heads",
    "hidden_size",
    "num_hidden_layers",
    "latent_channels",
    "patch_size",
];

fn small(component: Component) -> Value {
    match component {
        Component::Unet | Component::Unet3d => json!({
            "block_out_channels": [4], "layers_per_block": 1, "cross_attention_dim": 4, "attention_head_dim": 2,
            "in_channels": 2, "out_channels": 2,
            "down_block_types": ["DownBlock3D"],
            "up_block_types": ["UpBlock3D"],
        }),
        Component::Vae => {
            json!({ "block_out_channels": [2, 4], "layers_per_block": 1, "latent_channels": 2 })
        }
        Component::TextEncoder => json!({
            "hidden_size": 4, "vocab_size": 8, "max_position_embeddings": 4, "num_hidden_layers": 2, "intermediate_size": 8,
        }),
        Component::ImageEncoder => json!({
            "hidden_size": 4, "image_size": 4, "patch_size": 2, "num_hidden_layers": 2, "intermediate_size": 8,
            "projection_dim": 4,
        }),
    }
}

fn name(list: u8, line: u16) -> &'static str {
    static NAMES: OnceLock<Vec<Vec<&str>>> = OnceLock::new();
    let first = |line: &'static str| line.split(' ').next().unwrap_or("");
    let names = NAMES.get_or_init(|| LISTS.map(|list| list.lines().map(first).collect()).to_vec());
    let list = &names[usize::from(list) % names.len()];
    list[usize::from(line) % list.len()]
}

fn sizes(shape: &[u8]) -> Vec<usize> {
    shape.iter().take(6).map(|n| usize::from(n % 13)).collect()
}

fuzz_target!(|input: Input| -> Corpus {
    let component = Component::ALL[usize::from(input.component) % Component::ALL.len()];
    let mut config = small(component);
    for (field, value) in &input.config {
        config[FIELDS[usize::from(*field) % FIELDS.len()]] = json!(value.map(|n| n % 3));
    }
    let mut tensors: Vec<(String, Vec<usize>, Dtype)> = Vec::new();
    if input.complete {
        let Ok(layout) = component.layout(&config) else {
            return Corpus::Reject;
        };
        let float = |(key, shape): (String, Vec<usize>)| (key, shape, Dtype::F16);
        tensors.extend(layout.into_iter().map(float));
    }
    for change in input.changes.into_iter().take(64) {
        let count = tensors.len().max(1);
        let at = |n: u16| usize::from(n) % count;
        match change {
            Change::Remove(n) if !tensors.is_empty() => drop(tensors.remove(at(n))),
            Change::Rename(n, to) if !tensors.is_empty() => tensors[at(n)].0 = to,
            Change::Reshape(n, to) if !tensors.is_empty() => tensors[at(n)].1 = sizes(&to),
            Change::Add(key, shape) => tensors.push((key, sizes(&shape), Dtype::F16)),
            Change::Known(list, line, shape) => {
                tensors.push((name(list, line).to_owned(), sizes(&shape), Dtype::F16));
            }
            Change::Nearly(list, line, place, letter) => {
                let mut key: Vec<char> = name(list, line).chars().collect();
                if let Some(old) = key.get_mut(usize::from(place)) {
                    *old = letter;
                }
                tensors.push((key.into_iter().collect(), vec![4], Dtype::F16));
            }
            Change::Dtype(n, wide) if !tensors.is_empty() => {
                tensors[at(n)].2 = if wide { Dtype::F32 } else { Dtype::U8 };
            }
            _ => {}
        }
    }
    let prefix = PREFIXES[usize::from(input.prefix) % PREFIXES.len()];
    let bytes = |(_, shape, dtype): &(String, Vec<usize>, Dtype)| {
        shape.iter().product::<usize>() * dtype.bitsize() / 8
    };
    if tensors.iter().map(bytes).sum::<usize>() > 4 << 20 {
        return Corpus::Reject;
    }
    let zeros = vec![0; tensors.iter().map(bytes).max().unwrap_or(0)];
    let views = tensors.iter().map(|tensor| {
        let view = TensorView::new(tensor.2, tensor.1.clone(), &zeros[..bytes(tensor)])
            .expect("the length is right");
        (format!("{prefix}{}", tensor.0), view)
    });
    // Names that came twice: the last one stays.
    let views: std::collections::BTreeMap<_, _> = views.collect();
    let Ok(file) = safetensors::serialize(views, None) else {
        return Corpus::Reject;
    };
    let path = i2vgen_fuzz::file("model.safetensors", &file);
    let Ok(source) = Source::open(&path) else {
        return Corpus::Reject;
    };
    let _ = source.component();
    if let Ok(mut plan) = Plan::new(component, &[source], &config) {
        let layout = component
            .layout(&plan.config)
            .expect("it was planned with it");
        assert_eq!(layout.len(), plan.entries.len());
        let _ = plan.parameters();
        plan.fold_concat_gain();
    }
    Corpus::Keep
});
