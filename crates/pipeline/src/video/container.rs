use std::path::{Path, PathBuf};

use crate::PipelineError;

/// What a video is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// `.gif`: 256 colours.
    Gif,
    /// `.png`, animated: lossless.
    AnimatedPng,
    /// `.webp`, animated: lossless.
    WebP,
    /// `.mp4`, H.264: small, plays everywhere. Needs the cargo feature `mp4`.
    Mp4,
    /// A folder of numbered PNGs.
    Folder,
    /// `.safetensors`, tensor `frames`, f32, `[videos, frames, height, width, 3]`.
    Safetensors,
    /// `.npy`, f32, `[videos, frames, height, width, 3]`.
    Npy,
}

impl Container {
    /// By the ending; a path without one is a folder.
    ///
    /// # Errors
    /// If the ending is not supported.
    pub fn of(path: &Path) -> Result<Self, PipelineError> {
        let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        match ending.as_deref() {
            Some("gif") => Ok(Self::Gif),
            Some("png") => Ok(Self::AnimatedPng),
            Some("webp") => Ok(Self::WebP),
            #[cfg(feature = "mp4")]
            Some("mp4") => Ok(Self::Mp4),
            Some("safetensors") => Ok(Self::Safetensors),
            Some("npy") => Ok(Self::Npy),
            None => Ok(Self::Folder),
            Some(other) => {
                let mp4 = match (cfg!(feature = "mp4"), other) {
                    (true, _) => ".mp4, ",
                    (false, "mp4") => "(built without the cargo feature mp4) ",
                    (false, _) => "",
                };
                Err(PipelineError::Output {
                    path: path.display().to_string(),
                    problem: format!(
                        "ends in .{other}, which is not supported; use {mp4}.webp, .gif, .png (animated), .safetensors, .npy, or a folder name without ending"
                    ),
                })
            }
        }
    }

    /// The files of so many videos: one, or one for each with `-0`, `-1` … in front of the ending.
    pub fn paths(self, path: &Path, videos: usize) -> Vec<PathBuf> {
        if videos == 1 || matches!(self, Self::Safetensors | Self::Npy) {
            return vec![path.to_owned()];
        }
        (0..videos)
            .map(|i| {
                let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                let name = match path.extension() {
                    Some(e) => format!("{stem}-{i}.{}", e.to_string_lossy()),
                    None => format!("{stem}-{i}"),
                };
                path.with_file_name(name)
            })
            .collect()
    }

    /// Refuses an output that could not be written, before any work is done for it.
    ///
    /// # Errors
    /// If the place does not exist, is not writable, or holds something that must not be replaced.
    pub fn check(self, path: &Path, videos: usize) -> Result<(), PipelineError> {
        for path in self.paths(path, videos) {
            let fail = |problem: String| PipelineError::Output {
                path: path.display().to_string(),
                problem,
            };
            if self == Self::Folder {
                let occupied = match std::fs::read_dir(&path) {
                    Ok(mut entries) => entries.next().is_some(),
                    Err(_) => path.exists(),
                };
                if occupied {
                    return Err(fail(
                        "already holds something; choose a new or an empty folder".into(),
                    ));
                }
            } else if path.is_dir() {
                return Err(fail("is a folder; add a file name".into()));
            }
            tempfile::Builder::new()
                .prefix(".i2vgen-")
                .tempfile_in(parent(&path))
                .map_err(|e| {
                    fail(format!(
                        "cannot be written ({}); choose an existing, writable place",
                        e.kind()
                    ))
                })?;
        }
        Ok(())
    }
}

/// The folder that a path lies in.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
