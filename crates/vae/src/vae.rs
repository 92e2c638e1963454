//! Encoder and decoder (diffusers `models/autoencoders/vae.py`).

use burn::{
    module::Module,
    tensor::{DType, Tensor, backend::Backend},
};
use i2vgen_kernels::{Conv2d, GroupNorm};

use crate::{
    AutoencoderKLConfig,
    resnet::EPS,
    unet_2d_blocks::{DownEncoderBlock2D, UNetMidBlock2D, UpDecoderBlock2D},
};

#[derive(Module, Debug)]
pub(crate) struct Encoder<B: Backend> {
    conv_in: Conv2d<B>,
    down_blocks: Vec<DownEncoderBlock2D<B>>,
    mid_block: UNetMidBlock2D<B>,
    conv_norm_out: GroupNorm<B>,
    conv_out: Conv2d<B>,
}

impl<B: Backend> Encoder<B> {
    pub(crate) fn new(config: &AutoencoderKLConfig, device: &B::Device) -> Self {
        let widths = &config.block_out_channels;
        let (groups, top) = (config.norm_num_groups, widths[widths.len() - 1]);
        let down_blocks = (0..widths.len())
            .map(|i| {
                let channels = [widths[i.saturating_sub(1)], widths[i]];
                let last = i + 1 == widths.len();
                DownEncoderBlock2D::new(channels, config.layers_per_block, groups, !last, device)
            })
            .collect();
        Self {
            conv_in: Conv2d::new(config.in_channels, widths[0], 3, 1, 1, true, device),
            down_blocks,
            mid_block: UNetMidBlock2D::new(top, groups, config.mid_block_add_attention, device),
            conv_norm_out: GroupNorm::new(groups, top, EPS, device),
            conv_out: Conv2d::new(top, 2 * config.latent_channels, 3, 1, 1, true, device),
        }
    }

    /// # Shapes
    /// `[n, h, w, 3]` → `[n, h/s, w/s, 2·latent]`
    pub(crate) fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let x = self.conv_in.forward(x);
        let x = self.down_blocks.iter().fold(x, |x, block| block.forward(x));
        let x = self.mid_block.forward(x);
        self.conv_out.forward(self.conv_norm_out.forward_silu(x))
    }
}

#[derive(Module, Debug)]
pub(crate) struct Decoder<B: Backend> {
    conv_in: Conv2d<B>,
    mid_block: UNetMidBlock2D<B>,
    up_blocks: Vec<UpDecoderBlock2D<B>>,
    conv_norm_out: GroupNorm<B>,
    conv_out: Conv2d<B>,
}

impl<B: Backend> Decoder<B> {
    pub(crate) fn dtype(&self) -> DType {
        self.conv_norm_out.weight.val().dtype()
    }

    pub(crate) fn new(config: &AutoencoderKLConfig, device: &B::Device) -> Self {
        let widths: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let (groups, layers) = (config.norm_num_groups, config.layers_per_block + 1);
        let up_blocks = (0..widths.len())
            .map(|i| {
                let channels = [widths[i.saturating_sub(1)], widths[i]];
                UpDecoderBlock2D::new(channels, layers, groups, i + 1 != widths.len(), device)
            })
            .collect();
        let last = widths[widths.len() - 1];
        Self {
            conv_in: Conv2d::new(config.latent_channels, widths[0], 3, 1, 1, true, device),
            mid_block: UNetMidBlock2D::new(
                widths[0],
                groups,
                config.mid_block_add_attention,
                device,
            ),
            up_blocks,
            conv_norm_out: GroupNorm::new(groups, last, EPS, device),
            conv_out: Conv2d::new(last, config.out_channels, 3, 1, 1, true, device),
        }
    }

    /// # Shapes
    /// `[n, h, w, latent]` → `[n, h·s, w·s, 3]`
    pub(crate) fn forward(&self, z: Tensor<B, 4>) -> Tensor<B, 4> {
        let x = self.mid_block.forward(self.conv_in.forward(z));
        let x = self.up_blocks.iter().fold(x, |x, block| block.forward(x));
        self.conv_out.forward(self.conv_norm_out.forward_silu(x))
    }
}
