//! DeepCache (Ma et al., CVPR 2024, <https://arxiv.org/abs/2312.00858>): from one denoising step to the next, what the deep
//! levels of a UNet compute changes little, so that it may serve for several steps.

use burn::tensor::{Tensor, backend::Backend};

/// What the deep part of a UNet has made of one step, for [`I2VGenXLUNet::forward_cached`] to use again in later ones.
///
/// It belongs to one run of rows: another conditioning, another part of a batch and another UNet need one of their own.
///
/// [`I2VGenXLUNet::forward_cached`]: crate::I2VGenXLUNet::forward_cached
#[derive(Clone, Debug)]
pub struct DeepCache<B: Backend> {
    /// What enters the last layer of the last up block, `[rows · frames, h, w, channels]`.
    pub(crate) deep: Option<Tensor<B, 4>>,
}

impl<B: Backend> DeepCache<B> {
    /// An empty one, which the next pass fills.
    pub fn new() -> Self {
        Self { deep: None }
    }

    /// Whether the next pass is a full one.
    pub fn is_empty(&self) -> bool {
        self.deep.is_none()
    }

    /// Empties it, so that the next pass is a full one.
    pub fn clear(&mut self) {
        self.deep = None;
    }
}

impl<B: Backend> Default for DeepCache<B> {
    fn default() -> Self {
        Self::new()
    }
}
