//! Nearest-neighbour resizing of channels-last images.

use burn::tensor::{Int, Tensor, TensorData, backend::Backend};

/// Nearest-neighbour resize with PyTorch's index rule `source = floor(target · in / out)`.
///
/// # Shapes
/// `[n, h, w, c]` → `[n, height, width, c]`
pub fn nearest_resize<B: Backend>(x: Tensor<B, 4>, height: usize, width: usize) -> Tensor<B, 4> {
    #[cfg(feature = "flex")]
    let x = match crate::flex::try_nearest_resize(x, height, width) {
        Ok(done) => return done,
        Err(x) => x,
    };
    let [_, h, w, _] = x.dims();
    let device = x.device();
    let indices = |from: usize, to: usize| {
        let list: Vec<i64> = (0..to).map(|i| nearest_index(i, from, to) as i64).collect();
        Tensor::<B, 1, Int>::from_data(TensorData::new(list, [to]), &device)
    };
    x.select(1, indices(h, height)).select(2, indices(w, width))
}

/// Source index of target index `i`.
pub(crate) fn nearest_index(i: usize, from: usize, to: usize) -> usize {
    (i * from / to).min(from - 1)
}
