use std::collections::BTreeMap;

use serde_json::Value;

use crate::{CheckpointError, Folder};

/// `model_index.json`: which class fills which slot of a pipeline.
#[derive(Clone, Debug)]
pub struct ModelIndex {
    /// The pipeline's class, e.g. `I2VGenXLPipeline`.
    pub class_name: String,
    /// The filled slots; null and unknown entries are left out.
    pub slots: BTreeMap<String, Slot>,
}

/// One component of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// `diffusers` or `transformers`.
    pub library: String,
    /// The component's class.
    pub class: String,
}

impl ModelIndex {
    /// Reads `model_index.json`.
    ///
    /// # Errors
    /// If it is missing or is not a pipeline description.
    pub fn read(folder: &Folder) -> Result<Self, CheckpointError> {
        let json: BTreeMap<String, Value> = folder.read_json("model_index.json")?;
        let class_name = json
            .get("_class_name")
            .and_then(Value::as_str)
            .unwrap_or("")
            .to_owned();
        let slots = json
            .into_iter()
            .filter(|(name, _)| !name.starts_with('_'))
            .filter_map(|(name, value)| {
                let text = |i: usize| value.get(i)?.as_str().map(str::to_owned);
                Some((
                    name.clone(),
                    Slot {
                        library: text(0)?,
                        class: text(1)?,
                    },
                ))
            })
            .collect();
        Ok(Self { class_name, slots })
    }
}
