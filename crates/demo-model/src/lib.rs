#![doc = include_str!("../README.md")]

use i2vgen_checkpoint::Folder;

/// The prompt that fits [`IMAGE`].
pub const PROMPT: &str = "a red circle moves left";

/// A picture of the toy world, 64×64, PNG.
pub const IMAGE: &[u8] = include_bytes!("../examples/red_circle_64.png");

macro_rules! embed {
    ($($file:literal),* $(,)?) => {
        &[$(($file, include_bytes!(concat!("../model/", $file)))),*]
    };
}

const FILES: &[(&str, &[u8])] = embed![
    "model_index.json",
    "feature_extractor/preprocessor_config.json",
    "image_encoder/config.json",
    "image_encoder/model.safetensors",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
];

/// The checkpoint as a diffusers folder.
pub fn folder() -> Folder {
    Folder::embedded(FILES)
}
