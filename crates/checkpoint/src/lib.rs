#![doc = include_str!("../README.md")]

mod dtype;
mod error;
mod folder;
mod load;
mod model_index;
mod module_paths;
mod save;
mod weights;

pub use error::{CheckpointError, LoadReport};
pub use folder::{Blob, Folder};
pub use load::{LoadOptions, lay_out, load_module};
pub use model_index::{ModelIndex, Slot};
pub use module_paths::{Path as ModulePath, parameters};
pub use save::{save_module, write_atomically, write_json};
pub use weights::{Stem, TensorEntry, Weights};
