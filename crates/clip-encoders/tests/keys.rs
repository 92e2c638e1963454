//! The published configurations have the published keys and shapes. Nothing is allocated: parameters are lazy.

use std::collections::BTreeMap;

use burn::backend::Flex;
use i2vgen_checkpoint::parameters;
use i2vgen_clip_encoders::{CLIPTextModel, CLIPVisionModelWithProjection};
use serde_json::{Value, json};

/// Lines of `key AxB`.
fn list(text: &str) -> BTreeMap<String, Vec<usize>> {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines
        .map(|(key, shape)| {
            let shape = shape.split('x').map(|n| n.parse().expect("a number"));
            (key.to_owned(), shape.collect())
        })
        .collect()
}

fn check(found: Vec<(String, Vec<usize>)>, expected: &str, tensors: usize, numbers: usize) {
    let expected = list(expected);
    assert_eq!(expected.len(), tensors);
    let sum: usize = found.iter().map(|(_, s)| s.iter().product::<usize>()).sum();
    assert_eq!(sum, numbers);
    assert_eq!(found.into_iter().collect::<BTreeMap<_, _>>(), expected);
}

fn config<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a config")
}

#[test]
fn text() {
    let config = config(json!({
        "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "vocab_size": 49408, "hidden_size": 1024,
        "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "max_position_embeddings": 77,
        "hidden_act": "gelu", "layer_norm_eps": 1e-5, "attention_dropout": 0.0, "projection_dim": 1024,
        "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1
    }));
    let tower = CLIPTextModel::<Flex>::new(config, &Default::default()).expect("builds");
    let expected = include_str!("clip_text_keys.txt");
    check(parameters(&tower), expected, 388, 352_984_064);
}

#[test]
fn vision() {
    let config = config(json!({
        "architectures": ["CLIPVisionModelWithProjection"], "model_type": "clip_vision_model", "hidden_size": 1280,
        "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16, "num_channels": 3,
        "image_size": 224, "patch_size": 14, "hidden_act": "gelu", "layer_norm_eps": 1e-5, "attention_dropout": 0.0,
        "projection_dim": 1024
    }));
    let tower = CLIPVisionModelWithProjection::<Flex>::new(config, &Default::default());
    let expected = include_str!("clip_vision_keys.txt");
    check(
        parameters(&tower.expect("builds")),
        expected,
        520,
        632_076_800,
    );
}
