#![doc = include_str!("../README.md")]

mod cache;
mod error;
mod names;
mod needed;
mod options;
mod progress;
mod pull;
mod remote;
mod retry;
mod transfer;

pub use error::HubError;
pub use names::is_model_id;
pub use options::HubOptions;
pub use progress::Progress;
pub use pull::pull;
