//! `OUTPUT.json`: how a video was made, and what `--from` needs to make it again.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use i2vgen_checkpoint::{Blob, Folder};
use i2vgen_pipeline::{Generation, PipelineError, first_frame_similarity, motion_energy};
use image::RgbImage;
use rayon::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{job::Job, model::Model, settings::Settings};

/// burn has no constant for it; a test compares it with Cargo.lock.
const BURN_VERSION: &str = "0.21.0";

/// Everything that the run was told or chose itself. That it may be too large is said of a machine, not of a video.
pub(crate) fn arguments(model: &Model, job: &Job, generation: &Generation) -> Settings {
    Settings {
        revision: model.revision.clone(),
        allow_oversize: None,
        ..job.settings.completed(&job.options, &generation.seeds)
    }
}

/// What goes inside of the video: how it was made, but not where files lie, since videos are passed on. One line without
/// control characters.
pub(crate) fn metadata(arguments: &Settings) -> String {
    let mut settings = Settings {
        threads: None,
        keep_resident: None,
        offline: None,
        ..arguments.clone().without_outputs()
    };
    for path in settings.paths_mut() {
        *path = path.file_name().map_or_else(|| path.clone(), PathBuf::from);
    }
    let text = json!({"i2vgen": env!("CARGO_PKG_VERSION"), "arguments": settings.to_json()});
    let mut line = String::new();
    for c in text.to_string().chars() {
        match c.is_control() {
            true => line.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => line.push(c),
        }
    }
    line
}

/// What a sidecar tells of.
pub(crate) struct Record<'a> {
    pub(crate) model: &'a Model,
    pub(crate) job: &'a Job,
    pub(crate) generation: &'a Generation,
    pub(crate) images: &'a [RgbImage],
    /// With the lengths of those that are files.
    pub(crate) outputs: &'a [(PathBuf, Option<u64>)],
    pub(crate) hashes: &'a BTreeMap<String, String>,
    /// Before the weights were hashed, for which whole files are mapped.
    pub(crate) peak_memory: Option<u64>,
}

impl Record<'_> {
    /// How like its picture each video begins, and how much moves in it.
    fn videos(&self) -> Vec<Value> {
        let Some(video) = &self.generation.video else {
            return Vec::new();
        };
        let image = |index: usize| match self.images {
            [only] => only,
            all => &all[index / self.job.options.num_videos_per_prompt],
        };
        let [videos, ..] = video.shape();
        let about = |index| {
            json!({
                "first_frame_similarity": first_frame_similarity(video, index, image(index)),
                "motion_energy": motion_energy(video, index),
            })
        };
        (0..videos).map(about).collect()
    }

    pub(crate) fn to_json(&self, arguments: &Settings) -> Value {
        let Self {
            model,
            job,
            generation,
            outputs,
            hashes,
            ..
        } = self;
        let (settings, options) = (&job.settings, &job.options);
        let timings: BTreeMap<_, _> = generation.timings.iter().copied().collect();
        let names = |paths: &[PathBuf]| paths.iter().map(|p| name(p)).collect::<Vec<_>>();
        json!({
            "outputs": outputs.iter().map(|(path, _)| name(path)).collect::<Vec<_>>(),
            "output_bytes": outputs.iter().map(|(_, bytes)| bytes).collect::<Vec<_>>(),
            "prompt": one_or_many(settings.prompt.clone().unwrap_or_default()),
            "negative_prompt": match (&settings.negative_prompt, &settings.negative_prompt_embeds) {
                (_, Some(_)) => Value::Null,
                (texts, None) => one_or_many(texts.clone().unwrap_or(vec![String::new()])),
            },
            "image": match (&settings.image, &settings.continue_from) {
                (Some(images), _) => one_or_many(names(images)),
                (None, Some(path)) => json!(name(path)),
                (None, None) => Value::Null,
            },
            "height": options.height,
            "width": options.width,
            "num_frames": options.num_frames,
            "target_fps": options.target_fps,
            "num_inference_steps": options.num_inference_steps,
            "guidance_scale": options.guidance_scale,
            "eta": options.eta,
            "num_videos_per_prompt": options.num_videos_per_prompt,
            "decode_chunk_size": options.decode_chunk_size,
            "clip_skip": options.clip_skip,
            "image_latents": arguments.image_latents,
            "compat": arguments.compat,
            "output_type": arguments.output_type,
            "latents_given": options.latents.is_some(),
            "seed": generation.seeds[0],
            "seeds": generation.seeds,
            "cut_tokens": generation.cut_tokens,
            "unknown_lora_keys": generation.unknown_lora_keys,
            "device": model.device,
            "dtype": model.dtype,
            "model": model.folder.display(""),
            "model_sha256": hashes,
            "arguments": arguments.to_json(),
            "version": env!("CARGO_PKG_VERSION"),
            "versions": {
                "i2vgen": env!("CARGO_PKG_VERSION"),
                "burn": BURN_VERSION,
                "system": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            },
            "videos": self.videos(),
            "frame_problems": generation.frame_problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "seconds": timings,
            "peak_memory_bytes": self.peak_memory,
        })
    }
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

/// A single value alone, as it was before there could be several.
fn one_or_many(mut values: Vec<String>) -> Value {
    match values.len() {
        0 => Value::Null,
        1 => json!(values.remove(0)),
        _ => json!(values),
    }
}

/// SHA-256 of every weight file, at once: one thread manages about 1 GB/s.
pub(crate) fn hashes(folder: &Folder) -> Result<BTreeMap<String, String>, PipelineError> {
    let mut files = Vec::new();
    for part in ["text_encoder", "image_encoder", "unet", "vae"] {
        let folder = folder.subfolder(part)?;
        let weights = folder.files().into_iter();
        for file in weights.filter(|name| name.ends_with(".safetensors")) {
            files.push((format!("{part}/{file}"), folder.read(&file)?));
        }
    }
    let hash = |(name, bytes): (String, Blob)| {
        // Piece by piece, so that not whole files count as this process's memory.
        const PIECE: usize = 16 << 20;
        let mut hash = Sha256::new();
        for start in (0..bytes.len()).step_by(PIECE) {
            let piece = start..bytes.len().min(start + PIECE);
            hash.update(&bytes[piece.clone()]);
            bytes.forget(piece);
        }
        let hex = hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        (name, hex)
    };
    Ok(files.into_par_iter().map(hash).collect())
}

/// Most memory that this process has had resident, where the system tells.
pub(crate) fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|l| l.trim().split(' ').next()?.parse::<u64>().ok());
    kilobytes.map(|kb| kb * 1024)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_of_burn() {
        let lock = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock");
        let lock = std::fs::read_to_string(lock).expect("Cargo.lock");
        let entry = format!("name = \"burn\"\nversion = \"{}\"", super::BURN_VERSION);
        assert!(lock.contains(&entry));
    }
}
