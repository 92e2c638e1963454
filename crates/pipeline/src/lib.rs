#![doc = include_str!("../README.md")]

mod components;
mod error;
mod generate;
mod image_input;
mod inputs;
mod options;
mod pipeline;
mod video;

pub use components::Components;
pub use error::PipelineError;
pub use generate::{Event, Generation};
pub use image_input::{decode_image, open_image};
pub use options::{Compat, GenerateOptions, ImageLatents, Latents, OutputType};
pub use pipeline::I2VGenXLPipeline;
pub use video::{
    Container, FrameProblem, GifDither, GifPalette, SaveOptions, Video, check_frames,
    first_frame_similarity, motion_energy, read_metadata,
};
