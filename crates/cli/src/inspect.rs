//! `i2vgen inspect`: what is in a model folder, and what is wrong with it.

use std::{collections::BTreeMap, path::Path};

use i2vgen_checkpoint::{Folder, ModelIndex, Stem, Weights};
use i2vgen_pipeline::PipelineError;

use crate::failure::Failure;

pub(crate) fn inspect(dir: &Path) -> Result<(), Failure> {
    let folder = Folder::open(dir).map_err(PipelineError::from)?;
    let index = ModelIndex::read(&folder).map_err(PipelineError::from)?;
    println!("{} ({})", folder.display(""), index.class_name);
    let mut problems = 0;
    for (name, slot) in &index.slots {
        match component(&folder, name) {
            Ok(text) => println!("  {name:<18} {:<30} {text}", slot.class),
            Err(error) => {
                problems += 1;
                println!("  {name:<18} {:<30} PROBLEM: {error}", slot.class);
            }
        }
    }
    match problems {
        0 => Ok(()),
        n => Err(Failure::Input(format!(
            "{n} of the components have problems"
        ))),
    }
}

fn component(folder: &Folder, name: &str) -> Result<String, PipelineError> {
    let part = folder.subfolder(name)?;
    let stem = match name {
        "unet" | "vae" => Stem::Diffusers,
        "text_encoder" | "image_encoder" => Stem::Transformers,
        _ => return Ok(format!("{} files", part.files().len())),
    };
    let weights = Weights::open(&part, stem, None)?;
    let mut count = 0usize;
    let mut dtypes: BTreeMap<String, usize> = BTreeMap::new();
    for (_, tensor) in weights.tensors() {
        let parameters = tensor.shape.iter().product::<usize>();
        count += parameters;
        *dtypes.entry(format!("{:?}", tensor.dtype)).or_default() += 1;
    }
    let dtypes: Vec<_> = dtypes
        .iter()
        .map(|(dtype, n)| format!("{n} tensors {dtype}"))
        .collect();
    let megabytes = weights.size() as f64 / 1e6;
    Ok(format!(
        "{count} parameters, {}, {megabytes:.1} MB",
        dtypes.join(", ")
    ))
}
