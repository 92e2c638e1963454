#![doc = include_str!("../README.md")]

mod config;
mod encoder;
mod error;
mod image_processor;
mod resample;
mod text;
mod tokenizer;
mod vision;
mod weighting;

pub use config::{CLIPTextConfig, CLIPVisionConfig};
pub use error::CLIPError;
pub use image_processor::{CLIPImageProcessor, CropMode, crop_wide, vae_pixels};
pub use text::CLIPTextModel;
pub use tokenizer::{CLIPTokenizer, Encoding};
pub use vision::CLIPVisionModelWithProjection;
pub use weighting::{WeightedEncoding, apply_weights};
