//! The residual block and the two resamplers of the VAE (diffusers `models/resnet.py`).

use burn::{
    module::Module,
    tensor::{Tensor, backend::Backend},
};
use i2vgen_kernels::{Conv2d, GroupNorm, Padding};

/// Epsilon of every norm in the VAE.
pub(crate) const EPS: f64 = 1e-6;

/// Norm, SiLU, convolution, twice, around a shortcut.
#[derive(Module, Debug)]
pub(crate) struct ResnetBlock2D<B: Backend> {
    norm1: GroupNorm<B>,
    conv1: Conv2d<B>,
    norm2: GroupNorm<B>,
    conv2: Conv2d<B>,
    conv_shortcut: Option<Conv2d<B>>,
}

impl<B: Backend> ResnetBlock2D<B> {
    pub(crate) fn new(input: usize, output: usize, groups: usize, device: &B::Device) -> Self {
        Self {
            norm1: GroupNorm::new(groups, input, EPS, device),
            conv1: Conv2d::new(input, output, 3, 1, 1, true, device),
            norm2: GroupNorm::new(groups, output, EPS, device),
            conv2: Conv2d::new(output, output, 3, 1, 1, true, device),
            conv_shortcut: (input != output)
                .then(|| Conv2d::new(input, output, 1, 1, 0, true, device)),
        }
    }

    /// # Shapes
    /// `[n, h, w, in]` → `[n, h, w, out]`
    pub(crate) fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let h = self.conv1.forward(self.norm1.forward_silu(x.clone()));
        let x = match &self.conv_shortcut {
            Some(conv) => conv.forward(x),
            None => x,
        };
        self.conv2.forward_add(self.norm2.forward_silu(h), x)
    }
}

/// Halves the size; pads one row below and one column on the right only.
#[derive(Module, Debug)]
pub(crate) struct Downsample2D<B: Backend> {
    conv: Conv2d<B>,
}

impl<B: Backend> Downsample2D<B> {
    pub(crate) fn new(channels: usize, device: &B::Device) -> Self {
        Self {
            conv: Conv2d::new(channels, channels, 3, 2, 0, true, device),
        }
    }

    pub(crate) fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        self.conv.forward_padded(
            x,
            Padding {
                top: 0,
                left: 0,
                bottom: 1,
                right: 1,
            },
        )
    }
}

/// Doubles the size by repeating pixels, then convolves.
#[derive(Module, Debug)]
pub(crate) struct Upsample2D<B: Backend> {
    conv: Conv2d<B>,
}

impl<B: Backend> Upsample2D<B> {
    pub(crate) fn new(channels: usize, device: &B::Device) -> Self {
        Self {
            conv: Conv2d::new(channels, channels, 3, 1, 1, true, device),
        }
    }

    pub(crate) fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        self.conv.forward_upsampled(x)
    }
}
