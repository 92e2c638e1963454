//! Finished frames and the files they are written to.

mod container;
mod write;

use std::path::{Path, PathBuf};

use image::RgbImage;

pub use container::Container;

use crate::PipelineError;

/// Videos of one run, f32 in 0..1.
#[derive(Clone, Debug, PartialEq)]
pub struct Video {
    frames: Vec<f32>,
    shape: [usize; 4],
    /// Frames per second of the files.
    pub fps: f64,
}

impl Video {
    /// From values `[videos, frames, height, width, 3]`; `shape` is without the 3.
    ///
    /// # Errors
    /// If there are more or fewer values than the shape says.
    pub fn new(frames: Vec<f32>, shape: [usize; 4], fps: f64) -> Result<Self, PipelineError> {
        let expected = shape.iter().product::<usize>() * 3;
        if frames.len() != expected || expected == 0 {
            return Err(PipelineError::Option {
                name: "frames",
                problem: format!("{} values are not a video of shape {shape:?}", frames.len()),
            });
        }
        Ok(Self { frames, shape, fps })
    }

    /// Videos, frames, height, width.
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// All values, `[videos, frames, height, width, 3]`.
    pub fn values(&self) -> &[f32] {
        &self.frames
    }

    /// One frame in 8 bits, rounded as numpy does.
    ///
    /// # Panics
    /// If there is no such video or frame.
    pub fn frame(&self, video: usize, frame: usize) -> RgbImage {
        let [videos, frames, height, width] = self.shape;
        assert!(
            video < videos && frame < frames,
            "no frame {frame} of video {video}"
        );
        let size = height * width * 3;
        let values = &self.frames[(video * frames + frame) * size..][..size];
        let pixels = values
            .iter()
            .map(|v| (v.clamp(0.0, 1.0) * 255.0).round_ties_even() as u8)
            .collect();
        RgbImage::from_raw(width as u32, height as u32, pixels)
            .expect("the frame has this many values")
    }

    /// Writes to a container chosen by the path's ending (see [`Container::of`]). Several videos become several files with
    /// `-0`, `-1` … in front of the ending, or one safetensors file. Returns what was written.
    ///
    /// Nothing is there under the final name before it is complete.
    ///
    /// # Errors
    /// If the ending is unknown or the files cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<Vec<PathBuf>, PipelineError> {
        write::save(self, path.as_ref(), Container::of(path.as_ref())?)
    }
}
