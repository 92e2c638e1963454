//! The way back from files to frames.

use std::path::Path;

use image::{AnimationDecoder, ImageDecoder};

use super::{Advice, AnyError, Container, Video, frames::Frames, gif, npy, png, safetensors, webp};
use crate::PipelineError;

pub(super) fn open(path: &Path) -> Result<Video, PipelineError> {
    in_file(path, |container| {
        if container == Container::Folder {
            return folder(path);
        }
        let bytes = std::fs::read(path).map_err(|e| format!("cannot be read: {e}"))?;
        if bytes.is_empty() {
            return Err(Advice::error("is empty (zero bytes); write it again"));
        }
        match container {
            Container::Gif => gif::read(&bytes),
            Container::AnimatedPng | Container::Folder => png::read(&bytes),
            Container::WebP => webp::read(&bytes),
            #[cfg(feature = "mp4")]
            Container::Mp4 => super::mp4::read(&bytes),
            #[cfg(not(feature = "mp4"))]
            Container::Mp4 => Err(Advice::error("needs the cargo feature mp4")),
            Container::Safetensors => safetensors::read(&bytes),
            Container::Npy => npy::read(&bytes),
        }
        .map_err(broken)
    })
}

/// Runs a reader with what the path holds, and names the path if it fails.
pub(super) fn in_file<T>(
    path: &Path,
    read: impl FnOnce(Container) -> Result<T, AnyError>,
) -> Result<T, PipelineError> {
    let container = if path.is_dir() {
        Ok(Container::Folder)
    } else if !path.exists() {
        Err("does not exist; check the path".into())
    } else if path.extension().is_none() {
        Err("has no ending that tells its format; rename it".into())
    } else {
        Container::of(path).map_err(|_| {
            "has an ending that is not supported; give one that can be written, too".into()
        })
    };
    container.and_then(read).map_err(|e| PipelineError::Video {
        path: path.display().to_string(),
        problem: e.to_string(),
    })
}

/// Adds what to do to errors that do not say it.
pub(super) fn broken(e: AnyError) -> AnyError {
    match e.is::<Advice>() {
        true => e,
        false => Advice::error(format!(
            "is broken or incomplete ({e}); write or download it again"
        )),
    }
}

/// Frames of an animation whose size is reasonable.
pub(super) fn animation<'a>(
    decoder: impl ImageDecoder + AnimationDecoder<'a>,
) -> Result<Video, AnyError> {
    fits(&decoder)?;
    collect(decoder)
}

pub(super) fn fits(decoder: &impl ImageDecoder) -> Result<(), AnyError> {
    let (width, height) = decoder.dimensions();
    Frames::check(width.into(), height.into())
}

/// Frames of an animation, without their transparency.
pub(super) fn collect<'a>(decoder: impl AnimationDecoder<'a>) -> Result<Video, AnyError> {
    let mut frames = Frames::default();
    let mut seconds = 0.0;
    for frame in decoder.into_frames() {
        let frame = frame?;
        let (numerator, denominator) = frame.delay().numer_denom_ms();
        seconds += f64::from(numerator) / f64::from(denominator) / 1000.0;
        let image = frame.buffer();
        let values = image.pixels().flat_map(|p| [p[0], p[1], p[2]]);
        let size = [image.height() as usize, image.width() as usize];
        frames.push(size, values.map(|v| f32::from(v) / 255.0))?;
    }
    frames.video(seconds)
}

/// PNGs in the order of their numbers, which have as many digits or more.
fn folder(path: &Path) -> Result<Video, AnyError> {
    let files = super::metadata::pictures(path)?;
    let mut frames = Frames::default();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let bytes = std::fs::read(&file).map_err(|e| format!("has an unreadable '{name}': {e}"))?;
        let picture = png::read(&bytes)
            .map_err(|e| format!("has a broken '{name}' ({e}); write it again"))?;
        frames.push_rgb(&picture.frame(0, 0))?;
    }
    frames.video(0.0)
}
