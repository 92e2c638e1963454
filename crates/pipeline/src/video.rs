//! Finished frames and the files they are written to.

mod container;
mod frames;
mod gif;
mod metadata;
mod metrics;
#[cfg(feature = "mp4")]
mod mp4;
mod npy;
mod options;
mod png;
mod read;
mod safetensors;
mod webp;
mod write;
#[cfg(feature = "mp4")]
mod yuv;

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Tensor, TensorData, backend::Backend};
use image::RgbImage;

pub use container::Container;
pub use metadata::read_metadata;
pub use metrics::{FrameProblem, check_frames, first_frame_similarity, motion_energy};
pub use options::{GifDither, GifPalette, SaveOptions};

use crate::PipelineError;

/// What a writer or reader of a format fails with, before the file's name is added.
type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// An error that says what to do. Others, from the formats' libraries, say only where they stumbled.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Advice(String);

impl Advice {
    fn error(text: impl Into<String>) -> AnyError {
        Self(text.into()).into()
    }
}

/// Rate of files that hold none: diffusers' `target_fps`.
pub(crate) const DEFAULT_FPS: f64 = 16.0;

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
        let expected = shape
            .iter()
            .try_fold(3, |n: usize, side| n.checked_mul(*side));
        if frames.is_empty() || expected != Some(frames.len()) {
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
        let [_, _, height, width] = self.shape;
        let pixels = self
            .frame_values(video, frame)
            .iter()
            .map(|v| (v.clamp(0.0, 1.0) * 255.0).round_ties_even() as u8)
            .collect();
        RgbImage::from_raw(width as u32, height as u32, pixels)
            .expect("the frame has this many values")
    }

    /// The frames of one video in 8 bits (diffusers' `output_type="pil"`; [`Self::values`] is its `"np"`).
    ///
    /// # Panics
    /// If there is no such video.
    pub fn images(&self, video: usize) -> Vec<RgbImage> {
        (0..self.shape[1]).map(|i| self.frame(video, i)).collect()
    }

    /// All frames on a device in f32 (diffusers' `output_type="pt"`).
    ///
    /// # Shapes
    /// → `[videos, frames, 3, height, width]` in 0..1
    pub fn to_tensor<B: Backend>(&self, device: &B::Device) -> Tensor<B, 5> {
        let [videos, frames, height, width] = self.shape;
        let data = TensorData::new(self.frames.clone(), [videos, frames, height, width, 3]);
        let tensor = Tensor::<B, 5>::from_data(data, (device, DType::F32));
        tensor.permute([0, 1, 4, 2, 3])
    }

    /// The same videos so often that there are `videos` of them.
    pub(crate) fn repeated(&self, videos: usize) -> Self {
        let [own, frames, height, width] = self.shape;
        Self {
            frames: self.frames.repeat(videos.div_ceil(own)),
            shape: [own * videos.div_ceil(own), frames, height, width],
            fps: self.fps,
        }
    }

    /// With the 8-bit values below, where [`Self::frame`] gives the nearest.
    pub(crate) fn truncated(mut self) -> Self {
        for value in &mut self.frames {
            *value = (*value * 255.0).floor() / 255.0;
        }
        self
    }

    /// One frame, `[height, width, 3]`.
    ///
    /// # Panics
    /// If there is no such video or frame.
    fn frame_values(&self, video: usize, frame: usize) -> &[f32] {
        let [videos, frames, height, width] = self.shape;
        assert!(
            video < videos && frame < frames,
            "no frame {frame} of video {video}"
        );
        let size = height * width * 3;
        &self.frames[(video * frames + frame) * size..][..size]
    }

    /// Writes to a container chosen by the path's ending (see [`Container::of`]). Several videos become several files with
    /// `-0`, `-1` … in front of the ending, or one `.safetensors` or `.npy` file. Returns what was written.
    ///
    /// Nothing is there under a final name before everything is complete.
    ///
    /// # Errors
    /// If the ending is unknown or the files cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<Vec<PathBuf>, PipelineError> {
        self.save_with(path, &SaveOptions::default())
    }

    /// As [`save`](Self::save), with a say in how.
    ///
    /// # Errors
    /// As `save`, or if an option is out of range.
    pub fn save_with(
        &self,
        path: impl AsRef<Path>,
        options: &SaveOptions,
    ) -> Result<Vec<PathBuf>, PipelineError> {
        let path = path.as_ref();
        write::save(self, path, Container::of(path)?, options)
    }

    /// Reads a file or folder that [`save`](Self::save) has written (others of these formats mostly work, too).
    ///
    /// PNG, WebP, `.safetensors` and `.npy` give exactly what was written (pictures: in 8 bits), a GIF its palette's colours
    /// and an MP4 roughly the same picture. What holds no rate (`.npy`, a folder, a still picture) gets 16 frames a second.
    ///
    /// # Errors
    /// If it is missing, broken, cut off, too large, or holds no frames or frames of several sizes.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, PipelineError> {
        read::open(path.as_ref())
    }
}
