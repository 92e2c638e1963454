//! `OUTPUT.json`: how a video was made.

use std::{collections::BTreeMap, path::PathBuf};

use i2vgen_checkpoint::{Folder, write_json};
use i2vgen_pipeline::{Generation, PipelineError, Prompt};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::run::Job;

pub(crate) fn write(
    job: &Job,
    generation: &Generation,
    written: &[PathBuf],
) -> Result<(), PipelineError> {
    let options = &job.options;
    let timings: BTreeMap<_, _> = generation.timings.iter().copied().collect();
    let record = json!({
        "outputs": written.iter().map(|p| p.display().to_string()).collect::<Vec<_>>(),
        "prompt": job.prompt,
        "negative_prompt": match &options.negative_prompt {
            Prompt::Texts(texts) => json!(texts[0]),
            Prompt::Embeds(_) => Value::Null,
        },
        "image": job.image_name,
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
        "image_latents": format!("{:?}", options.image_latents).to_lowercase(),
        "compat": format!("{:?}", options.compat).to_lowercase(),
        "output_type": format!("{:?}", options.output_type).to_lowercase(),
        "latents_given": options.latents.is_some(),
        "seed": generation.seeds[0],
        "cut_tokens": generation.cut_tokens,
        "device": job.device,
        "dtype": "f32",
        "model": job.folder.display(""),
        "model_sha256": hashes(&job.folder)?,
        "version": env!("CARGO_PKG_VERSION"),
        "seconds": timings,
        "peak_memory_bytes": peak_memory(),
    });
    let mut name = job.output.clone().into_os_string();
    name.push(".json");
    Ok(write_json(&PathBuf::from(name), &record)?)
}

/// SHA-256 of every weight file.
fn hashes(folder: &Folder) -> Result<BTreeMap<String, String>, PipelineError> {
    let mut hashes = BTreeMap::new();
    for part in ["text_encoder", "image_encoder", "unet", "vae"] {
        let part_folder = folder.subfolder(part)?;
        let files = part_folder.files();
        for file in files.iter().filter(|name| name.ends_with(".safetensors")) {
            let digest = Sha256::digest(&*part_folder.read(file)?);
            let hex = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            hashes.insert(format!("{part}/{file}"), hex);
        }
    }
    Ok(hashes)
}

/// Most memory that this process has had resident, where the system tells.
fn peak_memory() -> Value {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|l| l.trim().split(' ').next()?.parse::<u64>().ok());
    kilobytes.map_or(Value::Null, |kb| json!(kb * 1024))
}
