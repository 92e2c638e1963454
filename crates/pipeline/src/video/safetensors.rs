//! Tensor `frames`; rate and parameters are in `__metadata__`.

use std::{collections::HashMap, io::Write};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::{Advice, AnyError, DEFAULT_FPS, SaveOptions, Video, npy::from_le_bytes};

pub(super) fn write(
    video: &Video,
    options: &SaveOptions,
    out: &mut dyn Write,
) -> Result<(), AnyError> {
    let [videos, frames, height, width] = video.shape();
    let shape = vec![videos, frames, height, width, 3];
    let mut metadata = HashMap::from([("fps".to_owned(), video.fps.to_string())]);
    if let Some(text) = &options.metadata {
        metadata.insert("parameters".into(), text.clone());
    }
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
    let rate = entry(bytes, "fps")?.and_then(|text| text.parse().ok());
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

pub(super) fn entry(bytes: &[u8], key: &str) -> Result<Option<String>, AnyError> {
    let (_, header) = SafeTensors::read_metadata(bytes)?;
    Ok(header.metadata().as_ref().and_then(|m| m.get(key).cloned()))
}
