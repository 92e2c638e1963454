#![doc = include_str!("../README.md")]

mod burnpack;
mod component;
mod convert;
mod error;
mod folder;
mod inspect;
mod job;
mod layout;
mod lora;
pub mod mapping;
mod number;
mod pipelines;
mod plan;
mod source;
mod tokenizer;
mod torch_file;
mod write;

pub use component::Component;
pub use convert::{Conversion, MAPPING_VERSION, Options, read_config};
pub use error::ConvertError;
pub use inspect::{ComponentReport, Report, inspect};
pub use job::INCOMPLETE;
pub use layout::Keys;
pub use lora::{Delta, Lora, LoraFit, LoraTarget, Merged};
pub use pipelines::Trio;
pub use plan::{Differences, Entry, Plan};
pub use source::{FileFormat, Source, SourceTensor};
pub use tokenizer::files as published_tokenizer;
