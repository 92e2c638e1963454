#![doc = include_str!("../README.md")]

mod autoencoder_kl;
mod config;
mod distribution;
mod error;
mod resnet;
mod tiling;
mod unet_2d_blocks;
mod vae;

pub use autoencoder_kl::AutoencoderKL;
pub use config::AutoencoderKLConfig;
pub use distribution::DiagonalGaussianDistribution;
pub use error::VaeError;
pub use tiling::Tiling;
