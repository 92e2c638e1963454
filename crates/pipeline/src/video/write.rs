//! The writers. Each writes to a temporary name beside the target, which is then renamed.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use safetensors::{Dtype, tensor::TensorView};

use super::{Container, Video, container::parent};
use crate::{Latents, PipelineError};

type AnyError = Box<dyn std::error::Error>;

pub(super) fn save(
    video: &Video,
    path: &Path,
    container: Container,
) -> Result<Vec<PathBuf>, PipelineError> {
    let [videos, ..] = video.shape();
    container.check(path, videos)?;
    let paths = container.paths(path, videos);
    for (index, path) in paths.iter().enumerate() {
        match container {
            Container::Gif => atomically(path, |file| gif(video, index, file)),
            Container::AnimatedPng => atomically(path, |file| animated_png(video, index, file)),
            Container::Safetensors => atomically(path, |file| safetensors(video, file)),
            Container::Folder => folder(video, index, path),
        }
        .map_err(|e| PipelineError::Output {
            path: path.display().to_string(),
            problem: format!("could not be written: {e}"),
        })?;
    }
    Ok(paths)
}

fn atomically(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), AnyError>,
) -> Result<(), AnyError> {
    let mut file = tempfile::Builder::new()
        .prefix(".i2vgen-")
        .tempfile_in(parent(path))?;
    {
        let mut buffered = BufWriter::new(file.as_file_mut());
        write(&mut buffered)?;
        buffered.flush()?;
    }
    readable(file.as_file())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Temporary files are made for their owner only; outputs are for everyone the folder is for.
fn readable(file: &File) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    }
    #[cfg(not(unix))]
    let _ = file;
    Ok(())
}

fn gif(video: &Video, index: usize, out: &mut dyn Write) -> Result<(), AnyError> {
    let [_, frames, height, width] = video.shape();
    let (width, height) = (u16::try_from(width)?, u16::try_from(height)?);
    let mut encoder = gif::Encoder::new(out, width, height, &[])?;
    encoder.set_repeat(gif::Repeat::Infinite)?;
    for i in 0..frames {
        let pixels = video.frame(index, i);
        let mut frame = gif::Frame::from_rgb_speed(width, height, &pixels, 1);
        // Times in hundredths of a second; rounding the ends, not the lengths, keeps the total right.
        let end = |n: usize| (n as f64 * 100.0 / video.fps).round();
        // Viewers slow frames shorter than this down to a tenth of a second.
        frame.delay = (end(i + 1) - end(i)).clamp(2.0, 65535.0) as u16;
        encoder.write_frame(&frame)?;
    }
    Ok(())
}

fn animated_png(video: &Video, index: usize, out: &mut dyn Write) -> Result<(), AnyError> {
    let [_, frames, height, width] = video.shape();
    let mut encoder = png::Encoder::new(out, u32::try_from(width)?, u32::try_from(height)?);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    if frames > 1 {
        encoder.set_animated(u32::try_from(frames)?, 0)?;
        let milliseconds = (1000.0 / video.fps).round().clamp(1.0, 65535.0);
        encoder.set_frame_delay(milliseconds as u16, 1000)?;
    }
    let mut writer = encoder.write_header()?;
    for i in 0..frames {
        writer.write_image_data(&video.frame(index, i))?;
    }
    writer.finish()?;
    Ok(())
}

fn safetensors(video: &Video, out: &mut dyn Write) -> Result<(), AnyError> {
    let [videos, frames, height, width] = video.shape();
    let shape = vec![videos, frames, height, width, 3];
    write_tensor("frames", video.values(), shape, out)
}

fn write_tensor(
    name: &str,
    values: &[f32],
    shape: Vec<usize>,
    out: &mut dyn Write,
) -> Result<(), AnyError> {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, shape, &bytes)?;
    out.write_all(&safetensors::serialize([(name, view)], None)?)?;
    Ok(())
}

fn folder(video: &Video, index: usize, path: &Path) -> Result<(), AnyError> {
    let [_, frames, ..] = video.shape();
    let temporary = tempfile::Builder::new()
        .prefix(".i2vgen-")
        .tempdir_in(parent(path))?;
    for i in 0..frames {
        let file = temporary.path().join(format!("frame_{i:04}.png"));
        video.frame(index, i).save(file)?;
    }
    // An empty folder may be there already; anything in it makes this fail.
    if path.exists() {
        std::fs::remove_dir(path)?;
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(temporary.path(), std::fs::Permissions::from_mode(0o755))?;
    }
    std::fs::rename(temporary.path(), path)?;
    // It has another name now, there is nothing left to clean up.
    let _ = temporary.keep();
    Ok(())
}

impl Latents {
    /// Writes tensor `latents` to a safetensors file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), PipelineError> {
        let path = path.as_ref();
        atomically(path, |file| {
            write_tensor("latents", &self.values, self.shape.to_vec(), file)
        })
        .map_err(|e| PipelineError::Output {
            path: path.display().to_string(),
            problem: format!("could not be written: {e}"),
        })
    }
}
