//! Numbers that say whether a video is worth looking at.

use std::fmt;

use i2vgen_clip_encoders::{CropMode, crop_wide};
use image::RgbImage;

use super::Video;
use crate::PipelineError;

/// How like the picture it was made from a video begins: mean SSIM of the first frame's luma, at most 1 (the same).
///
/// The picture is cropped and resized to the frame as the pipeline does it. SSIM as published (Wang et al., 2004): Gaussian
/// window of 11×11, σ 1.5, K₁ 0.01, K₂ 0.03, range 1, over all places where the whole window fits; luma is 0.299 R +
/// 0.587 G + 0.114 B. Frames under 11 pixels get a window of the largest odd size that fits. The same number as scikit-image's
/// `structural_similarity(…, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1)`.
///
/// # Panics
/// If there is no such video.
pub fn first_frame_similarity(video: &Video, index: usize, reference: &RgbImage) -> f64 {
    let [_, _, height, width] = video.shape();
    let picture = crop_wide(reference, width as u32, height as u32, CropMode::Corrected);
    let picture: Vec<f64> = picture
        .as_raw()
        .iter()
        .map(|v| f64::from(*v) / 255.0)
        .collect();
    let frame = video.frame_values(index, 0);
    let frame: Vec<f64> = frame
        .iter()
        .map(|v| f64::from(*v).clamp(0.0, 1.0))
        .collect();
    ssim(&luma(&frame), &luma(&picture), [height, width])
}

fn luma(values: &[f64]) -> Vec<f64> {
    let pixels = values.chunks_exact(3);
    pixels
        .map(|p| 0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2])
        .collect()
}

fn ssim(a: &[f64], b: &[f64], size: [usize; 2]) -> f64 {
    let kernels = size.map(gaussian);
    let mean = |f: &dyn Fn(f64, f64) -> f64| {
        let values: Vec<f64> = a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect();
        filter(&values, size, &kernels)
    };
    let (mean_a, mean_b) = (mean(&|a, _| a), mean(&|_, b| b));
    let (squares_a, squares_b) = (mean(&|a, _| a * a), mean(&|_, b| b * b));
    let products = mean(&|a, b| a * b);
    let (c1, c2) = (0.01 * 0.01, 0.03 * 0.03);
    let at = |i: usize| {
        let (a, b) = (mean_a[i], mean_b[i]);
        let variances = squares_a[i] - a * a + squares_b[i] - b * b;
        let covariance = products[i] - a * b;
        let luminance = (2.0 * a * b + c1) / (a * a + b * b + c1);
        luminance * (2.0 * covariance + c2) / (variances + c2)
    };
    (0..mean_a.len()).map(at).sum::<f64>() / mean_a.len() as f64
}

/// A window that fits into so many pixels.
fn gaussian(side: usize) -> Vec<f64> {
    let radius = 5.min(side.saturating_sub(1) / 2) as i32;
    let weight = |i: i32| (-0.5 * (f64::from(i) / 1.5).powi(2)).exp();
    let sum: f64 = (-radius..=radius).map(weight).sum();
    (-radius..=radius).map(|i| weight(i) / sum).collect()
}

/// Weighted means of all windows `[rows, columns]` that lie inside.
fn filter(values: &[f64], [height, width]: [usize; 2], kernels: &[Vec<f64>; 2]) -> Vec<f64> {
    let [vertical, horizontal] = kernels;
    let columns = width + 1 - horizontal.len();
    let rows = values.chunks_exact(width).flat_map(|row| {
        let windows = row.windows(horizontal.len());
        windows.map(|w| w.iter().zip(horizontal).map(|(v, k)| v * k).sum::<f64>())
    });
    let rows: Vec<f64> = rows.collect();
    let at = |y: usize, x: usize| -> f64 {
        let weighted = vertical.iter().enumerate();
        weighted.map(|(i, k)| k * rows[(y + i) * columns + x]).sum()
    };
    let places = (0..height + 1 - vertical.len()).flat_map(|y| (0..columns).map(move |x| (y, x)));
    places.map(|(y, x)| at(y, x)).collect()
}

/// How much happens: the mean absolute difference between successive frames over all pixels and channels, in 0..1.
/// 0 is a still picture; a single frame has none.
///
/// # Panics
/// If there is no such video.
pub fn motion_energy(video: &Video, index: usize) -> f64 {
    let [_, frames, ..] = video.shape();
    let pair = |i: usize| {
        (
            video.frame_values(index, i - 1),
            video.frame_values(index, i),
        )
    };
    let differences = (1..frames).map(|i| {
        let (before, after) = pair(i);
        let pairs = before.iter().zip(after);
        let sum: f64 = pairs
            .map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs())
            .sum();
        sum / before.len() as f64
    });
    // Also refuses a video that is not there when it has one frame.
    let _ = video.frame_values(index, 0);
    differences.sum::<f64>() / frames.saturating_sub(1).max(1) as f64
}

/// What a frame may well have by intention, but rarely has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameProblem {
    /// One colour only: no channel's standard deviation is more than half a step of 8 bits.
    Blank {
        /// Which video, from 0.
        video: usize,
        /// Which frame, from 0.
        frame: usize,
    },
    /// Equal to the frame before it, to the last bit.
    Repeated {
        /// Which video, from 0.
        video: usize,
        /// Which frame, from 0.
        frame: usize,
    },
}

impl fmt::Display for FrameProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank { video, frame } => {
                write!(f, "frame {frame} of video {video} is of one colour")
            }
            Self::Repeated { video, frame } => {
                write!(
                    f,
                    "frame {frame} of video {video} repeats the one before it"
                )
            }
        }
    }
}

/// Looks at every frame: values that are no numbers are an error, what only looks wrong is returned.
///
/// # Errors
/// If a value is NaN or infinite; names the first such frame.
pub fn check_frames(video: &Video) -> Result<Vec<FrameProblem>, PipelineError> {
    let [videos, frames, ..] = video.shape();
    let mut problems = Vec::new();
    for (video_index, frame) in (0..videos).flat_map(|v| (0..frames).map(move |f| (v, f))) {
        let values = video.frame_values(video_index, frame);
        if !values.iter().all(|v| v.is_finite()) {
            return Err(PipelineError::NotFinite {
                stage: "VAE decoder",
                video: video_index,
                frame,
            });
        }
        if is_blank(values) {
            problems.push(FrameProblem::Blank {
                video: video_index,
                frame,
            });
        } else if frame > 0 && values == video.frame_values(video_index, frame - 1) {
            problems.push(FrameProblem::Repeated {
                video: video_index,
                frame,
            });
        }
    }
    Ok(problems)
}

fn is_blank(values: &[f32]) -> bool {
    let pixels = (values.len() / 3) as f64;
    (0..3).all(|c| {
        let channel = || values[c..].iter().step_by(3).map(|v| f64::from(*v));
        let mean = channel().sum::<f64>() / pixels;
        let variance = channel().map(|v| (v - mean).powi(2)).sum::<f64>() / pixels;
        variance.sqrt() <= 0.5 / 255.0
    })
}
