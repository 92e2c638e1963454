//! Attention within each frame (diffusers `models/transformers/transformer_2d.py`, with linear projections).

use burn::{
    module::Module,
    tensor::{Tensor, backend::Backend},
};
use i2vgen_kernels::{GroupNorm, Linear};

use crate::{
    attention::{BasicTransformerBlock, KeyValue},
    backbone::repeated_to,
};

/// Epsilon of the group norms in front of transformers (that of resnets is 1e-5).
pub(crate) const TRANSFORMER_NORM_EPS: f64 = 1e-6;

/// A transformer block over the positions of one frame, around a residual.
#[derive(Module, Debug)]
pub(crate) struct Transformer2DModel<B: Backend> {
    norm: GroupNorm<B>,
    proj_in: Linear<B>,
    transformer_blocks: Vec<BasicTransformerBlock<B>>,
    proj_out: Linear<B>,
}

impl<B: Backend> Transformer2DModel<B> {
    pub(crate) fn new(
        channels: usize,
        head_dim: usize,
        context_dim: usize,
        groups: usize,
        device: &B::Device,
    ) -> Self {
        let heads = channels / head_dim;
        let inner = heads * head_dim;
        let block = BasicTransformerBlock::new(inner, context_dim, heads, head_dim, device);
        Self {
            norm: GroupNorm::new(groups, channels, TRANSFORMER_NORM_EPS, device),
            proj_in: Linear::new(channels, inner, true, device),
            transformer_blocks: vec![block],
            proj_out: Linear::new(inner, channels, true, device),
        }
    }

    /// `x` may have fewer images, which then all rows of the context share, copied when they first meet it.
    ///
    /// # Shapes
    /// `x [rows · frames, h, w, c]` → `[images, h, w, c]`
    pub(crate) fn forward(
        &self,
        x: Tensor<B, 4>,
        context: &KeyValue<B>,
        images: usize,
    ) -> Tensor<B, 4> {
        let [n, h, w, c] = x.dims();
        let mut y = self
            .proj_in
            .forward(self.norm.forward(x.clone()).reshape([n, h * w, c]));
        for block in &self.transformer_blocks {
            y = block.forward_spatial(y, context, images);
        }
        let x = repeated_to(x, images).reshape([images, h * w, c]);
        self.proj_out.forward_add(y, x).reshape([images, h, w, c])
    }

    /// Keys and values that the cross-attention takes from a context.
    pub(crate) fn project(&self, context: &Tensor<B, 3>) -> KeyValue<B> {
        // One block per transformer in every configuration of this model.
        self.transformer_blocks[0].attn2.project(context.clone())
    }
}
