//! Convolutional layers (diffusers `models/resnet.py`, `models/downsampling.py`, `models/upsampling.py`).

use burn::{
    module::Module,
    tensor::{Tensor, backend::Backend},
};
use i2vgen_kernels::{Conv2d, FrameConv, GroupNorm, Linear, Padding, nearest_resize};

/// Epsilon of the group norms in front of convolutions.
pub(crate) const RESNET_NORM_EPS: f64 = 1e-5;

/// Two 3×3 convolutions around a residual, with the time embedding added between them.
#[derive(Module, Debug)]
pub(crate) struct ResnetBlock2D<B: Backend> {
    norm1: GroupNorm<B>,
    conv1: Conv2d<B>,
    time_emb_proj: Linear<B>,
    norm2: GroupNorm<B>,
    conv2: Conv2d<B>,
    conv_shortcut: Option<Conv2d<B>>,
}

impl<B: Backend> ResnetBlock2D<B> {
    pub(crate) fn new(
        input: usize,
        output: usize,
        time_dim: usize,
        groups: usize,
        device: &B::Device,
    ) -> Self {
        Self {
            norm1: GroupNorm::new(groups, input, RESNET_NORM_EPS, device),
            conv1: Conv2d::new(input, output, 3, 1, 1, true, device),
            time_emb_proj: Linear::new(time_dim, output, true, device),
            norm2: GroupNorm::new(groups, output, RESNET_NORM_EPS, device),
            conv2: Conv2d::new(output, output, 3, 1, 1, true, device),
            conv_shortcut: (input != output)
                .then(|| Conv2d::new(input, output, 1, 1, 0, true, device)),
        }
    }

    /// `time` is the embedding after SiLU, one row for all frames of a video.
    ///
    /// # Shapes
    /// `x [rows · frames, h, w, in]`, `time [rows, time_dim]` → `[rows · frames, h, w, out]`
    pub(crate) fn forward(&self, x: Tensor<B, 4>, time: &Tensor<B, 2>) -> Tensor<B, 4> {
        let time = self.time_emb_proj.forward(time.clone());
        let h = self.norm1.forward_silu(x.clone());
        let h = self.conv1.forward_with(h, time);
        let x = match &self.conv_shortcut {
            Some(conv) => conv.forward(x),
            None => x,
        };
        self.conv2.forward_add(self.norm2.forward_silu(h), x)
    }
}

/// Four convolutions along the frame axis around a residual.
///
/// The stages' positions in their `nn.Sequential`s differ because the later ones carry a dropout.
#[derive(Module, Debug)]
pub(crate) struct TemporalConvLayer<B: Backend> {
    conv1: FirstStage<B>,
    conv2: Stage<B>,
    conv3: Stage<B>,
    conv4: Stage<B>,
}

#[derive(Module, Debug)]
struct FirstStage<B: Backend> {
    _0: GroupNorm<B>,
    _2: FrameConv<B>,
}

#[derive(Module, Debug)]
struct Stage<B: Backend> {
    _0: GroupNorm<B>,
    _3: FrameConv<B>,
}

impl<B: Backend> TemporalConvLayer<B> {
    pub(crate) fn new(channels: usize, groups: usize, device: &B::Device) -> Self {
        let norm = || GroupNorm::new(groups, channels, RESNET_NORM_EPS, device);
        let conv = || FrameConv::new(channels, channels, device);
        let stage = || Stage {
            _0: norm(),
            _3: conv(),
        };
        Self {
            conv1: FirstStage {
                _0: norm(),
                _2: conv(),
            },
            conv2: stage(),
            conv3: stage(),
            conv4: stage(),
        }
    }

    /// The norms' statistics are taken over all frames.
    ///
    /// # Shapes
    /// `x [b, f, s, c]` → the same
    pub(crate) fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let first = &self.conv1;
        let mut h = first._2.forward(first._0.forward_silu(x.clone()));
        for stage in [&self.conv2, &self.conv3] {
            h = stage._3.forward(stage._0.forward_silu(h));
        }
        let last = &self.conv4;
        last._3.forward_add(last._0.forward_silu(h), x)
    }
}

/// How levels change the size of images. MS-Vid2Vid-XL differs from all others (reference `refine.md` §3).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spatial {
    /// Zero rows above and below, and columns on both sides, in front of a downsampling convolution; none is 1 and 1.
    pub(crate) downsample_padding: Option<[usize; 2]>,
    /// Rows that are dropped at the top and at the bottom after enlarging.
    pub(crate) upsample_crop_rows: usize,
}

/// Halves height and width, rounding up.
#[derive(Module, Debug)]
pub(crate) struct Downsample2D<B: Backend> {
    conv: Conv2d<B>,
    #[module(skip)]
    padding: Padding,
}

impl<B: Backend> Downsample2D<B> {
    pub(crate) fn new(channels: usize, spatial: Spatial, device: &B::Device) -> Self {
        let [rows, columns] = spatial.downsample_padding.unwrap_or([1, 1]);
        Self {
            conv: Conv2d::new(channels, channels, 3, 2, 1, true, device),
            padding: Padding {
                top: rows,
                left: columns,
                bottom: rows,
                right: columns,
            },
        }
    }

    /// # Shapes
    /// `[n, h, w, c]` → `[n, ⌈h/2⌉, ⌈w/2⌉, c]`, and more with more padding
    pub(crate) fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        self.conv.forward_padded(x, self.padding)
    }
}

/// Enlarges to a given size.
#[derive(Module, Debug)]
pub(crate) struct Upsample2D<B: Backend> {
    conv: Conv2d<B>,
    #[module(skip)]
    crop_rows: usize,
}

impl<B: Backend> Upsample2D<B> {
    pub(crate) fn new(channels: usize, spatial: Spatial, device: &B::Device) -> Self {
        Self {
            conv: Conv2d::new(channels, channels, 3, 1, 1, true, device),
            crop_rows: spatial.upsample_crop_rows,
        }
    }

    /// The size is that of the next skip connection, which is not twice the input's when that was odd.
    ///
    /// # Shapes
    /// `[n, h, w, c]` → `[n, height, width, c]`
    pub(crate) fn forward(&self, x: Tensor<B, 4>, height: usize, width: usize) -> Tensor<B, 4> {
        let crop = self.crop_rows;
        let [_, h, w, _] = x.dims();
        if [crop, height, width] == [0, 2 * h, 2 * w] {
            return self.conv.forward_upsampled(x);
        }
        let x = nearest_resize(x, height + 2 * crop, width);
        let x = match crop {
            0 => x,
            crop => x.narrow(1, crop, height),
        };
        self.conv.forward(x)
    }
}
