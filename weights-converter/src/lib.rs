//! PyTorch checkpoints of I2VGen-XL become diffusers folders of safetensors, without Python and without burn.

mod component;
mod convert;
mod error;
mod job;
mod layout;
mod lora;
pub mod mapping;
mod number;
mod plan;
mod source;
mod write;

pub use component::Component;
pub use convert::{MAPPING_VERSION, Options, convert_component, read_config};
pub use error::ConvertError;
pub use job::INCOMPLETE;
pub use layout::Keys;
pub use plan::{Entry, Plan};
pub use source::{FileFormat, Source, SourceTensor};
