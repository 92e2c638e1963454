//! Files of embeddings and latents.

use std::{fs::File, path::Path};

use i2vgen_pipeline::{Generation, HostTensor, Latents, PipelineError};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

pub(crate) const PROMPT_EMBEDS: &str = "prompt_embeds";
pub(crate) const NEGATIVE_PROMPT_EMBEDS: &str = "negative_prompt_embeds";
const INITIAL_LATENTS: &str = "initial_latents";
const LATENTS: &str = "latents";

/// What `--save-prompt-embeds` writes.
pub(crate) fn write_embeds(path: &Path, generation: &Generation) -> Result<(), PipelineError> {
    let mut tensors = vec![(PROMPT_EMBEDS, &generation.prompt_embeds)];
    if let Some(negative) = &generation.negative_prompt_embeds {
        tensors.push((NEGATIVE_PROMPT_EMBEDS, negative));
    }
    write(path, &tensors)
}

/// What `--save-latents` writes.
pub(crate) fn write_latents(path: &Path, generation: &Generation) -> Result<(), PipelineError> {
    let tensors = [
        (INITIAL_LATENTS, &generation.initial_latents),
        (LATENTS, &generation.latents),
    ];
    write(path, &tensors)
}

/// Start noise: what a file says it began with, or else its `latents`.
pub(crate) fn read_noise(path: &Path) -> Result<Latents, PipelineError> {
    match holds(path, INITIAL_LATENTS) {
        true => HostTensor::read_named(path, INITIAL_LATENTS, "latents"),
        false => Latents::read(path),
    }
}

/// Whether this is a file of latents, and not, say, of frames.
pub(crate) fn holds_latents(path: &Path) -> bool {
    holds(path, LATENTS)
}

/// Whether this is a safetensors file with such a tensor.
fn holds(path: &Path, name: &str) -> bool {
    let Ok(bytes) = std::fs::read(path) else {
        return false;
    };
    SafeTensors::deserialize(&bytes).is_ok_and(|file| file.tensor(name).is_ok())
}

fn write<const D: usize>(
    path: &Path,
    tensors: &[(&str, &HostTensor<D>)],
) -> Result<(), PipelineError> {
    let fail = |e: &dyn std::fmt::Display| PipelineError::Output {
        path: path.display().to_string(),
        problem: format!("could not be written: {e}"),
    };
    let bytes = |t: &HostTensor<D>| t.values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, t)| bytes(t)).collect();
    let mut views = Vec::new();
    for ((name, tensor), bytes) in tensors.iter().zip(&bytes) {
        let view = TensorView::new(Dtype::F32, tensor.shape.to_vec(), bytes);
        views.push((*name, view.map_err(|e| fail(&e))?));
    }
    safetensors::serialize_to_file(views, None, path).map_err(|e| fail(&e))?;
    let file = File::open(path).map_err(|e| fail(&e))?;
    file.sync_all().map_err(|e| fail(&e))
}
