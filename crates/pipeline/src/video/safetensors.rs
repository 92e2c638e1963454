//! Tensor `frames`; rate and parameters are in `__metadata__`, as JSON under one key: the library writes several keys in any
//! order, and the same run must give the same bytes.

use std::{collections::HashMap, io::Write};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};

use super::{Advice, AnyError, DEFAULT_FPS, SaveOptions, Video, npy::from_le_bytes};

/// In `__metadata__`.
const KEY: &str = "i2vgen";

pub(super) fn write(
    video: &Video,
    options: &SaveOptions,
    out: &mut dyn Write,
) -> Result<(), AnyError> {
    let [videos, frames, height, width] = video.shape();
    let shape = vec![videos, frames, height, width, 3];
    let entry = json!({"fps": video.fps, "parameters": options.metadata});
    let metadata = HashMap::from([(KEY.to_owned(), entry.to_string())]);
    tensor("frames", video.values(), shape, Some(metadata), out)
}

pub(super) fn tensor(
    name: &str,
    values: &[f32],
    shape: Vec<usize>,
    metadata: Option<HashMap<String, String>>,
    out: &mut dyn Write,
) -> Result<(), AnyError> {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, shape, &bytes)?;
    out.write_all(&safetensors::serialize([(name, view)], metadata)?)?;
    Ok(())
}

pub(super) fn read(bytes: &[u8]) -> Result<Video, AnyError> {
    let file = SafeTensors::deserialize(bytes)?;
    let Ok(tensor) = file.tensor("frames") else {
        return Err(Advice::error(format!(
            "holds no tensor 'frames', only {:?}; give a file of videos",
            file.names()
        )));
    };
    let rate = entry(bytes)?["fps"].as_f64();
    let rate = rate.filter(|fps: &f64| fps.is_finite() && *fps > 0.0);
    match (tensor.dtype(), tensor.shape()) {
        (Dtype::F32, &[videos, frames, height, width, 3]) => from_le_bytes(
            tensor.data(),
            [videos, frames, height, width],
            rate.unwrap_or(DEFAULT_FPS),
        ),
        (dtype, shape) => Err(Advice::error(format!(
            "holds frames of {dtype:?} {shape:?}; they must be F32 [videos, frames, height, width, 3]"
        ))),
    }
}

pub(super) fn parameters(bytes: &[u8]) -> Result<Option<String>, AnyError> {
    Ok(entry(bytes)?["parameters"].as_str().map(str::to_owned))
}

/// Null if there is none, or none that is ours.
fn entry(bytes: &[u8]) -> Result<Value, AnyError> {
    let (_, header) = SafeTensors::read_metadata(bytes)?;
    let text = header.metadata().as_ref().and_then(|m| m.get(KEY));
    Ok(text
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default())
}
