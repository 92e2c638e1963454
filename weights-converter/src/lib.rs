//! PyTorch checkpoints of I2VGen-XL become diffusers folders of safetensors, without Python and without burn.

mod component;
mod error;
mod layout;
pub mod mapping;
mod source;

pub use component::Component;
pub use error::ConvertError;
pub use layout::Keys;
pub use source::{FileFormat, Source, SourceTensor};
