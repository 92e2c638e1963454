//! Attention layers and the transformer block (diffusers `models/attention.py`, `models/attention_processor.py`).

use burn::{
    module::Module,
    tensor::{Tensor, backend::Backend},
};
use i2vgen_kernels::{
    LayerNorm, Linear, Mask, attention, frame_attention, gelu, hidden_by_geglu, in_turns,
    memory_budget,
};

use crate::backbone::repeated_to;

/// Projected context of one cross-attention layer; constant over the denoising steps.
#[derive(Clone, Debug)]
pub(crate) struct KeyValue<B: Backend> {
    pub(crate) key: Tensor<B, 3>,
    pub(crate) value: Tensor<B, 3>,
}

/// Multi-head attention without mask or position.
#[derive(Module, Debug)]
pub(crate) struct Attention<B: Backend> {
    to_q: Linear<B>,
    to_k: Linear<B>,
    to_v: Linear<B>,
    to_out: AttentionOut<B>,
    heads: usize,
}

#[derive(Module, Debug)]
struct AttentionOut<B: Backend> {
    _0: Linear<B>,
}

impl<B: Backend> Attention<B> {
    pub(crate) fn new(
        dim: usize,
        context_dim: usize,
        heads: usize,
        head_dim: usize,
        device: &B::Device,
    ) -> Self {
        let inner = heads * head_dim;
        Self {
            to_q: Linear::new(dim, inner, false, device),
            to_k: Linear::new(context_dim, inner, false, device),
            to_v: Linear::new(context_dim, inner, false, device),
            to_out: AttentionOut {
                _0: Linear::new(inner, dim, true, device),
            },
            heads,
        }
    }

    /// Between the tokens of one image, added to `residual`.
    ///
    /// # Shapes
    /// `[n, tokens, dim]` both → the same
    pub(crate) fn forward_self(&self, x: Tensor<B, 3>, residual: Tensor<B, 3>) -> Tensor<B, 3> {
        let q = self.to_q.forward(x.clone());
        let k = self.to_k.forward(x.clone());
        let v = self.to_v.forward(x);
        let y = attention(q, k, v, self.heads, Mask::None);
        self.to_out._0.forward_add(y, residual)
    }

    /// From the tokens of an image to a context that serves all frames of its video, added to `residual`.
    ///
    /// # Shapes
    /// `x` and `residual [rows · frames, tokens, dim]`, context of `rows` → the shape of `x`
    pub(crate) fn forward_cross(
        &self,
        x: Tensor<B, 3>,
        context: &KeyValue<B>,
        residual: Tensor<B, 3>,
    ) -> Tensor<B, 3> {
        let q = self.to_q.forward(x);
        let KeyValue { key, value } = context.clone();
        let y = attention(q, key, value, self.heads, Mask::None);
        self.to_out._0.forward_add(y, residual)
    }

    /// Between the frames, separately at every position, added to `residual`.
    ///
    /// # Shapes
    /// `[b, f, s, dim]` both → the same
    pub(crate) fn forward_frames(&self, x: Tensor<B, 4>, residual: Tensor<B, 4>) -> Tensor<B, 4> {
        let q = self.to_q.forward(x.clone());
        let k = self.to_k.forward(x.clone());
        let v = self.to_v.forward(x);
        let y = frame_attention(q, k, v, self.heads);
        self.to_out._0.forward_add(y, residual)
    }

    /// Keys and values of a context.
    pub(crate) fn project(&self, context: Tensor<B, 3>) -> KeyValue<B> {
        KeyValue {
            key: self.to_k.forward(context.clone()),
            value: self.to_v.forward(context),
        }
    }
}

/// Two linear layers around GEGLU or GELU.
#[derive(Module, Debug)]
pub(crate) struct FeedForward<B: Backend> {
    net: FeedForwardNet<B>,
    gated: bool,
}

#[derive(Module, Debug)]
struct FeedForwardNet<B: Backend> {
    _0: Projection<B>,
    _2: Linear<B>,
}

#[derive(Module, Debug)]
struct Projection<B: Backend> {
    proj: Linear<B>,
}

impl<B: Backend> FeedForward<B> {
    pub(crate) fn new(dim: usize, inner: usize, gated: bool, device: &B::Device) -> Self {
        let width = if gated { 2 * inner } else { inner };
        Self {
            net: FeedForwardNet {
                _0: Projection {
                    proj: Linear::new(dim, width, true, device),
                },
                _2: Linear::new(inner, dim, true, device),
            },
            gated,
        }
    }

    /// Added to `residual`. Hidden values beyond the [`memory_budget`] are computed in turns.
    ///
    /// # Shapes
    /// `[.., dim]` both → the same
    pub(crate) fn forward_add<const D: usize>(
        &self,
        x: Tensor<B, D>,
        residual: Tensor<B, D>,
    ) -> Tensor<B, D> {
        let dims = x.dims();
        let dim = dims[D - 1];
        let rows = dims.iter().product::<usize>() / dim;
        let width = self.net._0.proj.weight.lazy_shape()[0];
        // The gate's result is half as wide as what it is made of.
        let width = match self.gated {
            true => width / 2 * hidden_by_geglu::<B>(&x.device(), x.dtype()).max(1),
            false => width,
        };
        let turn = memory_budget() / (x.dtype().size() * width);
        let (x, residual) = (x.reshape([1, rows, dim]), residual.reshape([1, rows, dim]));
        let y = in_turns(x, turn, 1, |x, start| {
            let residual = match x.dims()[1] {
                all if all == rows => residual.clone(),
                part => residual.clone().narrow(1, start, part),
            };
            self.turn(x, residual)
        });
        y.reshape(dims)
    }

    fn turn(&self, x: Tensor<B, 3>, residual: Tensor<B, 3>) -> Tensor<B, 3> {
        let project = &self.net._0.proj;
        let hidden = match self.gated {
            true => project.forward_geglu(x),
            false => gelu(project.forward(x)),
        };
        self.net._2.forward_add(hidden, residual)
    }
}

/// Two attentions and a feed-forward layer, each behind a layer norm and around a residual.
#[derive(Module, Debug)]
pub(crate) struct BasicTransformerBlock<B: Backend> {
    norm1: LayerNorm<B>,
    attn1: Attention<B>,
    norm2: LayerNorm<B>,
    pub(crate) attn2: Attention<B>,
    norm3: LayerNorm<B>,
    ff: FeedForward<B>,
}

/// Epsilon of every layer norm.
pub(crate) const LAYER_NORM_EPS: f64 = 1e-5;

impl<B: Backend> BasicTransformerBlock<B> {
    /// `context_dim` is the width of what `attn2` attends to: the context, or `dim` for a second self-attention.
    pub(crate) fn new(
        dim: usize,
        context_dim: usize,
        heads: usize,
        head_dim: usize,
        device: &B::Device,
    ) -> Self {
        Self {
            norm1: LayerNorm::new(dim, LAYER_NORM_EPS, device),
            attn1: Attention::new(dim, dim, heads, head_dim, device),
            norm2: LayerNorm::new(dim, LAYER_NORM_EPS, device),
            attn2: Attention::new(dim, context_dim, heads, head_dim, device),
            norm3: LayerNorm::new(dim, LAYER_NORM_EPS, device),
            ff: FeedForward::new(dim, 4 * dim, true, device),
        }
    }

    /// Within each image, then to the context.
    ///
    /// # Shapes
    /// `x [rows · frames, tokens, dim]` → `[images, tokens, dim]`
    pub(crate) fn forward_spatial(
        &self,
        x: Tensor<B, 3>,
        context: &KeyValue<B>,
        images: usize,
    ) -> Tensor<B, 3> {
        let x = self.attn1.forward_self(self.norm1.forward(x.clone()), x);
        let x = repeated_to(x, images);
        let normed = self.norm2.forward(x.clone());
        let x = self.attn2.forward_cross(normed, context, x);
        self.ff.forward_add(self.norm3.forward(x.clone()), x)
    }

    /// Twice between the frames.
    ///
    /// # Shapes
    /// `x [b, f, s, dim]` → the same
    pub(crate) fn forward_temporal(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let x = self.attn1.forward_frames(self.norm1.forward(x.clone()), x);
        let x = self.attn2.forward_frames(self.norm2.forward(x.clone()), x);
        self.ff.forward_add(self.norm3.forward(x.clone()), x)
    }
}
