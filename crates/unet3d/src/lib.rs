#![doc = include_str!("../README.md")]

mod attention;
mod conditioning;
mod config;
mod embeddings;
mod error;
mod freeu;
mod resnet;
mod transformer_2d;
mod transformer_temporal;
mod unet_3d_blocks;
mod unet_i2vgen_xl;

pub use conditioning::Conditioning;
pub use config::{I2VGenXLUNetConfig, PerLevel};
pub use error::UNetError;
pub use unet_i2vgen_xl::I2VGenXLUNet;
