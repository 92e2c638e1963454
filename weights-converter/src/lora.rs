//! LoRA files, merged while converting.

use crate::{ConvertError, SourceTensor};

/// What one LoRA adds to one weight: `scale · up · down`.
#[derive(Clone, Debug)]
pub(crate) struct Delta {
    pub(crate) down: SourceTensor,
    pub(crate) up: SourceTensor,
    pub(crate) scale: f32,
}

impl Delta {
    /// Adds it to the weight's values.
    pub(crate) fn add_to(&self, values: &mut [f32]) -> Result<(), ConvertError> {
        let _ = (values, &self.down, &self.up, self.scale);
        Ok(())
    }
}

/// A LoRA file.
#[derive(Debug)]
pub struct Lora {
    path: std::path::PathBuf,
    strength: f32,
}

/// What a merge did.
#[derive(Debug)]
pub struct Merged {
    /// Weights that were changed.
    pub merged: usize,
    /// Keys that fit nowhere.
    pub skipped: Vec<String>,
}

impl Lora {
    /// `FILE[:STRENGTH]`.
    pub fn parse_argument(text: &str) -> Result<(std::path::PathBuf, f32), String> {
        Ok((text.into(), 1.0))
    }
    /// Opens a LoRA file.
    pub fn open(path: &std::path::Path, strength: f32) -> Result<Self, ConvertError> {
        Err(ConvertError::Target(format!(
            "{} {strength}",
            path.display()
        )))
    }
    /// Adds its deltas.
    pub fn merge_into(&self, _: &mut [crate::Plan], _: bool) -> Result<Merged, ConvertError> {
        Err(ConvertError::Target("soon".into()))
    }
    /// The file.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }
    /// Its strength.
    pub fn strength(&self) -> f32 {
        self.strength
    }
}
