//! The transformer that both towers share (transformers `models/clip/modeling_clip.py`).

use burn::{
    module::Module,
    tensor::{
        Tensor,
        activation::{gelu_approximate, sigmoid},
        backend::Backend,
    },
};
use i2vgen_kernels::{LayerNorm, Linear, Mask, add, attention, gelu};

use crate::config::Activation;

#[derive(Module, Debug)]
pub(crate) struct CLIPEncoder<B: Backend> {
    pub(crate) layers: Vec<CLIPEncoderLayer<B>>,
}

/// Sizes of one tower.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) hidden: usize,
    pub(crate) intermediate: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) eps: f64,
    pub(crate) activation: Activation,
}

impl<B: Backend> CLIPEncoder<B> {
    pub(crate) fn new(sizes: Sizes, device: &B::Device) -> Self {
        Self {
            layers: (0..sizes.layers)
                .map(|_| CLIPEncoderLayer::new(sizes, device))
                .collect(),
        }
    }

    /// Through the first `layers` layers.
    ///
    /// # Shapes
    /// `[b, n, hidden]` → the same
    pub(crate) fn forward(&self, mut x: Tensor<B, 3>, layers: usize, mask: Mask) -> Tensor<B, 3> {
        for layer in &self.layers[..layers] {
            x = layer.forward(x, mask);
        }
        x
    }
}

#[derive(Module, Debug)]
pub(crate) struct CLIPEncoderLayer<B: Backend> {
    layer_norm1: LayerNorm<B>,
    self_attn: CLIPAttention<B>,
    layer_norm2: LayerNorm<B>,
    mlp: CLIPFeedForward<B>,
}

impl<B: Backend> CLIPEncoderLayer<B> {
    fn new(sizes: Sizes, device: &B::Device) -> Self {
        let Sizes { hidden, eps, .. } = sizes;
        let linear = || Linear::new(hidden, hidden, true, device);
        Self {
            layer_norm1: LayerNorm::new(hidden, eps, device),
            self_attn: CLIPAttention {
                q_proj: linear(),
                k_proj: linear(),
                v_proj: linear(),
                out_proj: linear(),
                heads: sizes.heads,
            },
            layer_norm2: LayerNorm::new(hidden, eps, device),
            mlp: CLIPFeedForward {
                fc1: Linear::new(hidden, sizes.intermediate, true, device),
                fc2: Linear::new(sizes.intermediate, hidden, true, device),
                activation: sizes.activation,
            },
        }
    }

    fn forward(&self, x: Tensor<B, 3>, mask: Mask) -> Tensor<B, 3> {
        let normed = self.layer_norm1.forward(x.clone());
        let x = add(self.self_attn.forward(normed, mask), x);
        add(self.mlp.forward(self.layer_norm2.forward(x.clone())), x)
    }
}

#[derive(Module, Debug)]
struct CLIPAttention<B: Backend> {
    q_proj: Linear<B>,
    k_proj: Linear<B>,
    v_proj: Linear<B>,
    out_proj: Linear<B>,
    heads: usize,
}

impl<B: Backend> CLIPAttention<B> {
    fn forward(&self, x: Tensor<B, 3>, mask: Mask) -> Tensor<B, 3> {
        let q = self.q_proj.forward(x.clone());
        let k = self.k_proj.forward(x.clone());
        let v = self.v_proj.forward(x);
        self.out_proj.forward(attention(q, k, v, self.heads, mask))
    }
}

#[derive(Module, Debug)]
struct CLIPFeedForward<B: Backend> {
    fc1: Linear<B>,
    fc2: Linear<B>,
    #[module(skip)]
    activation: Activation,
}

impl<B: Backend> CLIPFeedForward<B> {
    fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let h = self.fc1.forward(x);
        let h = match self.activation {
            Activation::QuickGelu => h.clone() * sigmoid(h * 1.702),
            Activation::Gelu => gelu(h),
            Activation::GeluNew => gelu_approximate(h),
        };
        self.fc2.forward(h)
    }
}
