//! Levels of the encoder and decoder (diffusers `models/unets/unet_2d_blocks.py`).

use burn::{
    module::Module,
    tensor::{Tensor, backend::Backend},
};
use i2vgen_kernels::{GroupNorm, Linear, Mask, attention};

use crate::resnet::{Downsample2D, EPS, ResnetBlock2D, Upsample2D};

/// Residual blocks, then perhaps halving.
#[derive(Module, Debug)]
pub(crate) struct DownEncoderBlock2D<B: Backend> {
    resnets: Vec<ResnetBlock2D<B>>,
    downsamplers: Vec<Downsample2D<B>>,
}

impl<B: Backend> DownEncoderBlock2D<B> {
    pub(crate) fn new(
        [input, output]: [usize; 2],
        layers: usize,
        groups: usize,
        downsample: bool,
        device: &B::Device,
    ) -> Self {
        Self {
            resnets: resnets(input, output, layers, groups, device),
            downsamplers: downsample
                .then(|| Downsample2D::new(output, device))
                .into_iter()
                .collect(),
        }
    }

    pub(crate) fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let x = self.resnets.iter().fold(x, |x, layer| layer.forward(x));
        self.downsamplers
            .iter()
            .fold(x, |x, layer| layer.forward(x))
    }
}

/// Residual blocks, then perhaps doubling.
#[derive(Module, Debug)]
pub(crate) struct UpDecoderBlock2D<B: Backend> {
    resnets: Vec<ResnetBlock2D<B>>,
    upsamplers: Vec<Upsample2D<B>>,
}

impl<B: Backend> UpDecoderBlock2D<B> {
    pub(crate) fn new(
        [input, output]: [usize; 2],
        layers: usize,
        groups: usize,
        upsample: bool,
        device: &B::Device,
    ) -> Self {
        Self {
            resnets: resnets(input, output, layers, groups, device),
            upsamplers: upsample
                .then(|| Upsample2D::new(output, device))
                .into_iter()
                .collect(),
        }
    }

    pub(crate) fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let x = self.resnets.iter().fold(x, |x, layer| layer.forward(x));
        self.upsamplers.iter().fold(x, |x, layer| layer.forward(x))
    }
}

fn resnets<B: Backend>(
    input: usize,
    output: usize,
    layers: usize,
    groups: usize,
    device: &B::Device,
) -> Vec<ResnetBlock2D<B>> {
    (0..layers)
        .map(|i| ResnetBlock2D::new(if i == 0 { input } else { output }, output, groups, device))
        .collect()
}

/// Two residual blocks, with self-attention between them.
#[derive(Module, Debug)]
pub(crate) struct UNetMidBlock2D<B: Backend> {
    resnets: Vec<ResnetBlock2D<B>>,
    attentions: Vec<Attention<B>>,
}

impl<B: Backend> UNetMidBlock2D<B> {
    pub(crate) fn new(
        channels: usize,
        groups: usize,
        add_attention: bool,
        device: &B::Device,
    ) -> Self {
        Self {
            resnets: resnets(channels, channels, 2, groups, device),
            attentions: add_attention
                .then(|| Attention::new(channels, groups, device))
                .into_iter()
                .collect(),
        }
    }

    pub(crate) fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let x = self.resnets[0].forward(x);
        let x = self.attentions.iter().fold(x, |x, layer| layer.forward(x));
        self.resnets[1].forward(x)
    }
}

/// Self-attention between all pixels, with one head as wide as the map.
#[derive(Module, Debug)]
struct Attention<B: Backend> {
    group_norm: GroupNorm<B>,
    to_q: Linear<B>,
    to_k: Linear<B>,
    to_v: Linear<B>,
    to_out: Vec<Linear<B>>,
}

impl<B: Backend> Attention<B> {
    fn new(channels: usize, groups: usize, device: &B::Device) -> Self {
        let linear = || Linear::new(channels, channels, true, device);
        Self {
            group_norm: GroupNorm::new(groups, channels, EPS, device),
            to_q: linear(),
            to_k: linear(),
            to_v: linear(),
            to_out: vec![linear()],
        }
    }

    /// # Shapes
    /// `[n, h, w, c]` → the same
    fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let [n, h, w, c] = x.dims();
        let tokens = self.group_norm.forward(x.clone()).reshape([n, h * w, c]);
        let x = x.reshape([n, h * w, c]);
        let q = self.to_q.forward(tokens.clone());
        let k = self.to_k.forward(tokens.clone());
        let v = self.to_v.forward(tokens);
        let y = attention(q, k, v, 1, Mask::None);
        self.to_out[0].forward_add(y, x).reshape([n, h, w, c])
    }
}
