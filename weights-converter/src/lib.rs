//! PyTorch checkpoints of I2VGen-XL become diffusers folders of safetensors, without Python and without burn.

mod error;
pub mod mapping;
mod source;

pub use error::ConvertError;
pub use source::{FileFormat, Source, SourceTensor};
