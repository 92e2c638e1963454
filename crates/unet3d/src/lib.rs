#![doc = include_str!("../README.md")]

mod attention;
mod backbone;
mod conditioning;
mod config_3d_condition;
mod config_i2vgen_xl;
mod deep_cache;
mod embeddings;
mod error;
mod freeu;
mod levels;
mod resnet;
mod transformer_2d;
mod transformer_temporal;
mod unet_3d_blocks;
mod unet_3d_condition;
mod unet_i2vgen_xl;

pub use conditioning::{Conditioning, TextConditioning};
pub use config_3d_condition::UNet3DConditionModelConfig;
pub use config_i2vgen_xl::{I2VGenXLUNetConfig, PerLevel};
pub use deep_cache::DeepCache;
pub use error::UNetError;
pub use unet_3d_condition::UNet3DConditionModel;
pub use unet_i2vgen_xl::I2VGenXLUNet;
