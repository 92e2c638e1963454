//! Attention between frames (diffusers `models/transformers/transformer_temporal.py`).

use burn::{
    module::Module,
    tensor::{Tensor, backend::Backend},
};
use i2vgen_kernels::{GroupNorm, LayerNorm, Linear};

use crate::{
    attention::{Attention, BasicTransformerBlock, FeedForward, LAYER_NORM_EPS},
    transformer_2d::TRANSFORMER_NORM_EPS,
};

/// A transformer block over the frames at each position, around a residual.
#[derive(Module, Debug)]
pub(crate) struct TransformerTemporalModel<B: Backend> {
    norm: GroupNorm<B>,
    proj_in: Linear<B>,
    transformer_blocks: Vec<BasicTransformerBlock<B>>,
    proj_out: Linear<B>,
}

impl<B: Backend> TransformerTemporalModel<B> {
    pub(crate) fn new(
        channels: usize,
        heads: usize,
        head_dim: usize,
        groups: usize,
        device: &B::Device,
    ) -> Self {
        let inner = heads * head_dim;
        let block = BasicTransformerBlock::new(inner, inner, heads, head_dim, device);
        Self {
            norm: GroupNorm::new(groups, channels, TRANSFORMER_NORM_EPS, device),
            proj_in: Linear::new(channels, inner, true, device),
            transformer_blocks: vec![block],
            proj_out: Linear::new(inner, channels, true, device),
        }
    }

    /// The norm's statistics are taken over all frames.
    ///
    /// # Shapes
    /// `x [b, f, s, c]` → the same
    pub(crate) fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let mut y = self.proj_in.forward(self.norm.forward(x.clone()));
        for block in &self.transformer_blocks {
            y = block.forward_temporal(y);
        }
        self.proj_out.forward_add(y, x)
    }
}

/// The small transformer over the frames of the image latents (diffusers `I2VGenXLTransformerTemporalEncoder`).
#[derive(Module, Debug)]
pub(crate) struct I2VGenXLTransformerTemporalEncoder<B: Backend> {
    norm1: LayerNorm<B>,
    attn1: Attention<B>,
    ff: FeedForward<B>,
}

impl<B: Backend> I2VGenXLTransformerTemporalEncoder<B> {
    pub(crate) fn new(dim: usize, device: &B::Device) -> Self {
        Self {
            norm1: LayerNorm::new(dim, LAYER_NORM_EPS, device),
            attn1: Attention::new(dim, dim, 2, dim, device),
            ff: FeedForward::new(dim, 4 * dim, false, device),
        }
    }

    /// There is no norm in front of the feed-forward layer.
    ///
    /// # Shapes
    /// `x [b, f, s, c]` → the same
    pub(crate) fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let x = self.attn1.forward_frames(self.norm1.forward(x.clone()), x);
        self.ff.forward_add(x.clone(), x)
    }
}
