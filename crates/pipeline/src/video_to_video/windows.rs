//! Denoising in overlapping parts. In every step each part's prediction counts with a weight that falls towards its edges,
//! so that no edge is seen (as MultiDiffusion, <https://arxiv.org/abs/2302.08113>, with weights).

use burn::tensor::{Tensor, TensorData, backend::Backend};

use super::Windows;
use crate::PipelineError;

/// Where parts of `size` begin so that they cover `len` and two neighbours overlap by at least `overlap`, evenly spread.
fn starts(len: usize, size: usize, overlap: usize) -> Vec<usize> {
    if size >= len {
        return vec![0];
    }
    let count = (len - overlap).div_ceil(size - overlap);
    let last = len - size;
    (0..count)
        .map(|i| (i * last + (count - 1) / 2) / (count - 1))
        .collect()
}

/// How much the entries of a part count: 1 inside, falling towards a neighbour over the overlap, never 0.
fn ramp(start: usize, size: usize, len: usize, overlap: usize) -> Vec<f32> {
    let fall = |distance: usize| (distance + 1) as f32 / (overlap + 1) as f32;
    let weight = |i: usize| {
        let left = if start == 0 { 1.0 } else { fall(i) };
        let right = if start + size == len {
            1.0
        } else {
            fall(size - 1 - i)
        };
        left.min(right).min(1.0)
    };
    (0..size).map(weight).collect()
}

/// The predictions of a whole video from those of its parts.
pub(super) struct Blend<B: Backend> {
    windows: Windows,
    /// Sum of all weights, `[1, 1, frames, h, w]`.
    total: Tensor<B, 5>,
}

/// One axis of one part: where it begins, and how its entries count.
type Span = (usize, Vec<f32>);

impl<B: Backend> Blend<B> {
    /// For videos of `[frames, h, w]`; none if one part is all of it.
    pub(super) fn new(windows: Windows, size: [usize; 3], device: &B::Device) -> Option<Self> {
        let [frames, h, w] = size;
        let clipped = |[part, overlap]: [usize; 2], len: usize| [part.min(len), overlap];
        let windows = Windows {
            frames: clipped(windows.frames, frames),
            height: clipped(windows.height, h),
            width: clipped(windows.width, w),
        };
        if [windows.frames[0], windows.height[0], windows.width[0]] == size {
            return None;
        }
        let mut blend = Self {
            windows,
            total: Tensor::zeros([1, 1, frames, h, w], device),
        };
        let mut total = blend.total.clone();
        blend
            .each(size, |ranges, weights| {
                let sum = total.clone().slice(ranges.clone()) + weights;
                total = total.clone().slice_assign(ranges, sum);
                Ok(())
            })
            .ok()?;
        blend.total = total;
        Some(blend)
    }

    /// Calls `f` with the ranges of every part in `[1, 1, frames, h, w]` and its weights.
    fn each(
        &self,
        [frames, h, w]: [usize; 3],
        mut f: impl FnMut([std::ops::Range<usize>; 5], Tensor<B, 5>) -> Result<(), PipelineError>,
    ) -> Result<(), PipelineError> {
        let spans = |[size, overlap]: [usize; 2], len: usize| -> Vec<Span> {
            let of = |start| (start, ramp(start, size, len, overlap));
            starts(len, size, overlap).into_iter().map(of).collect()
        };
        let device = self.total.device();
        let axis = |values: &[f32], shape: [usize; 5]| {
            Tensor::<B, 5>::from_data(TensorData::new(values.to_vec(), shape), &device)
        };
        for (t, by_frame) in &spans(self.windows.frames, frames) {
            for (y, by_row) in &spans(self.windows.height, h) {
                for (x, by_column) in &spans(self.windows.width, w) {
                    let weights = axis(by_frame, [1, 1, by_frame.len(), 1, 1])
                        * axis(by_row, [1, 1, 1, by_row.len(), 1])
                        * axis(by_column, [1, 1, 1, 1, by_column.len()]);
                    let range = |start: &usize, weights: &[f32]| *start..start + weights.len();
                    let ranges = [
                        0..1,
                        0..1,
                        range(t, by_frame),
                        range(y, by_row),
                        range(x, by_column),
                    ];
                    f(ranges, weights)?;
                }
            }
        }
        Ok(())
    }

    /// What `predict` says about the parts of `x`, blended.
    ///
    /// # Shapes
    /// `x [videos, channels, frames, h, w]`; `predict` gives as many channels, and any number of rows → such rows
    pub(super) fn map(
        &self,
        x: Tensor<B, 5>,
        mut predict: impl FnMut(Tensor<B, 5>) -> Result<Tensor<B, 5>, PipelineError>,
    ) -> Result<Tensor<B, 5>, PipelineError> {
        let [videos, channels, frames, h, w] = x.dims();
        let mut sum: Option<Tensor<B, 5>> = None;
        self.each([frames, h, w], |mut ranges, weights| {
            (ranges[0], ranges[1]) = (0..videos, 0..channels);
            let part = predict(x.clone().slice(ranges.clone()))?;
            let [rows, channels, ..] = part.dims();
            (ranges[0], ranges[1]) = (0..rows, 0..channels);
            let before = sum.take().unwrap_or_else(|| {
                Tensor::zeros([rows, channels, frames, h, w], (&x.device(), part.dtype()))
            });
            let part = before.clone().slice(ranges.clone()) + part * weights;
            sum = Some(before.slice_assign(ranges, part));
            Ok(())
        })?;
        let sum = sum.expect("there is at least one part");
        Ok(sum / self.total.clone())
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;

    #[test]
    fn parts_cover_everything_and_overlap() {
        for len in 1..40 {
            for size in 1..20 {
                for overlap in 0..size {
                    let starts = starts(len, size, overlap);
                    let size = size.min(len);
                    assert_eq!(starts[0], 0);
                    assert_eq!(starts[starts.len() - 1] + size, len);
                    for pair in starts.windows(2) {
                        assert!(pair[0] < pair[1]);
                        assert!(
                            pair[0] + size >= pair[1] + overlap,
                            "{len} {size} {overlap}: {starts:?}"
                        );
                    }
                    for start in starts {
                        let ramp = ramp(start, size, len, overlap);
                        assert!(ramp.iter().all(|w| *w > 0.0 && *w <= 1.0));
                    }
                }
            }
        }
    }

    #[test]
    fn what_all_parts_agree_on_is_kept() {
        let windows = Windows {
            frames: [3, 1],
            height: [4, 2],
            width: [5, 0],
        };
        let x = Tensor::<Flex, 1, burn::tensor::Int>::arange(
            0..2 * 4 * 7 * 9 * 11,
            &Default::default(),
        );
        let x: Tensor<Flex, 5> = x.float().sin().reshape([2, 4, 7, 9, 11]);
        let blend = Blend::new(windows, [7, 9, 11], &Default::default()).expect("parts");
        let mut parts = 0;
        let y = blend.map(x.clone(), |part| {
            parts += 1;
            assert_eq!(part.dims(), [2, 4, 3, 4, 5]);
            Ok(part.repeat_dim(0, 2))
        });
        let expected = x.repeat_dim(0, 2);
        let error = (y.expect("runs") - expected).abs().max().into_scalar();
        assert!(error < 1e-6, "{error}");
        assert_eq!(parts, 3 * 4 * 3);
        assert!(Blend::<Flex>::new(windows, [3, 4, 5], &Default::default()).is_none());
        assert!(Blend::<Flex>::new(windows, [2, 3, 4], &Default::default()).is_none());
    }
}
