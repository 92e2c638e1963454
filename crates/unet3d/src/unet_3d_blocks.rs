//! The levels of the UNet (diffusers `models/unets/unet_3d_blocks.py`).

use std::borrow::Cow;

use burn::{
    module::Module,
    tensor::{Tensor, backend::Backend},
};

use crate::{
    attention::KeyValue,
    backbone::{in_use, repeated_to},
    freeu::FreeU,
    resnet::{Downsample2D, ResnetBlock2D, Spatial, TemporalConvLayer, Upsample2D},
    transformer_2d::Transformer2DModel,
    transformer_temporal::TransformerTemporalModel,
};

/// What all layers of one forward pass share.
pub(crate) struct Pass<'a, B: Backend> {
    /// Time embedding after SiLU, `[rows, time_dim]`.
    pub(crate) time: Tensor<B, 2>,
    /// Frames per row.
    pub(crate) frames: usize,
    /// Rows of the text.
    pub(crate) rows: usize,
    /// See [`in_use`].
    pub(crate) streamed: bool,
    /// Projected contexts of the cross-attentions that are still to come.
    pub(crate) contexts: std::slice::Iter<'a, KeyValue<B>>,
}

impl<B: Backend> Pass<'_, B> {
    fn in_use<'m, M: Clone>(&self, layer: &'m M) -> Cow<'m, M> {
        in_use(layer, self.streamed)
    }

    /// Runs `f` on a view of the frames as videos, `[b, f, s, c]`.
    fn over_frames(
        &self,
        x: Tensor<B, 4>,
        f: impl FnOnce(Tensor<B, 4>) -> Tensor<B, 4>,
    ) -> Tensor<B, 4> {
        let [n, h, w, c] = x.dims();
        f(x.reshape([n / self.frames, self.frames, h * w, c])).reshape([n, h, w, c])
    }

    fn temporal_conv(&self, layer: &TemporalConvLayer<B>, x: Tensor<B, 4>) -> Tensor<B, 4> {
        self.over_frames(x, |x| self.in_use(layer).forward(x))
    }

    pub(crate) fn temporal(
        &self,
        layer: &TransformerTemporalModel<B>,
        x: Tensor<B, 4>,
    ) -> Tensor<B, 4> {
        self.over_frames(x, |x| self.in_use(layer).forward(x))
    }

    /// The spatial and the temporal transformer of one layer.
    fn attend(
        &mut self,
        spatial: &Transformer2DModel<B>,
        temporal: &TransformerTemporalModel<B>,
        x: Tensor<B, 4>,
    ) -> Tensor<B, 4> {
        let context = self
            .contexts
            .next()
            .expect("forward has compared the number of contexts with the number of layers");
        let images = self.rows * self.frames;
        let x = self.in_use(spatial).forward(x, context, images);
        self.temporal(temporal, x)
    }
}

/// Widths that all blocks share.
#[derive(Clone, Copy)]
pub(crate) struct Widths {
    pub(crate) time: usize,
    pub(crate) context: usize,
    pub(crate) groups: usize,
    pub(crate) spatial: Spatial,
}

impl Widths {
    fn resnet<B: Backend>(self, from: usize, to: usize, device: &B::Device) -> ResnetBlock2D<B> {
        ResnetBlock2D::new(from, to, self.time, self.groups, device)
    }

    fn transformer<B: Backend>(
        self,
        c: usize,
        head: usize,
        dev: &B::Device,
    ) -> Transformer2DModel<B> {
        Transformer2DModel::new(c, head, self.context, self.groups, dev)
    }

    fn temporal<B: Backend>(
        self,
        channels: usize,
        head_dim: usize,
        device: &B::Device,
    ) -> TransformerTemporalModel<B> {
        let heads = channels / head_dim;
        TransformerTemporalModel::new(channels, heads, head_dim, self.groups, device)
    }
}

/// `CrossAttnDownBlock3D`, or `DownBlock3D` when it has no attentions.
#[derive(Module, Debug)]
pub(crate) struct DownBlock3D<B: Backend> {
    resnets: Vec<ResnetBlock2D<B>>,
    temp_convs: Vec<TemporalConvLayer<B>>,
    pub(crate) attentions: Vec<Transformer2DModel<B>>,
    temp_attentions: Vec<TransformerTemporalModel<B>>,
    downsamplers: Vec<Downsample2D<B>>,
}

impl<B: Backend> DownBlock3D<B> {
    /// `head_dim` is none for a block without attention.
    pub(crate) fn new(
        input: usize,
        output: usize,
        layers: usize,
        head_dim: Option<usize>,
        downsample: bool,
        widths: Widths,
        device: &B::Device,
    ) -> Self {
        let heads = || (0..layers).filter_map(|_| head_dim);
        Self {
            resnets: (0..layers)
                .map(|i| widths.resnet(if i == 0 { input } else { output }, output, device))
                .collect(),
            temp_convs: (0..layers)
                .map(|_| TemporalConvLayer::new(output, widths.groups, device))
                .collect(),
            attentions: heads()
                .map(|d| widths.transformer(output, d, device))
                .collect(),
            temp_attentions: heads()
                .map(|d| widths.temporal(output, d, device))
                .collect(),
            downsamplers: downsample
                .then(|| Downsample2D::new(output, widths.spatial, device))
                .into_iter()
                .collect(),
        }
    }

    /// Pushes the output of every layer to `skips`.
    pub(crate) fn forward(
        &self,
        mut x: Tensor<B, 4>,
        pass: &mut Pass<'_, B>,
        skips: &mut Vec<Tensor<B, 4>>,
    ) -> Tensor<B, 4> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            x = pass.in_use(resnet).forward(x, &pass.time);
            x = pass.temporal_conv(&self.temp_convs[i], x);
            if let Some(attention) = self.attentions.get(i) {
                x = pass.attend(attention, &self.temp_attentions[i], x);
            }
            skips.push(x.clone());
        }
        for downsampler in &self.downsamplers {
            x = pass.in_use(downsampler).forward(x);
            skips.push(x.clone());
        }
        x
    }
}

/// `UNetMidBlock3DCrossAttn`
#[derive(Module, Debug)]
pub(crate) struct MidBlock3D<B: Backend> {
    resnets: Vec<ResnetBlock2D<B>>,
    temp_convs: Vec<TemporalConvLayer<B>>,
    pub(crate) attentions: Vec<Transformer2DModel<B>>,
    temp_attentions: Vec<TransformerTemporalModel<B>>,
}

impl<B: Backend> MidBlock3D<B> {
    pub(crate) fn new(
        channels: usize,
        head_dim: usize,
        widths: Widths,
        device: &B::Device,
    ) -> Self {
        let resnet = || widths.resnet(channels, channels, device);
        let conv = || TemporalConvLayer::new(channels, widths.groups, device);
        Self {
            resnets: vec![resnet(), resnet()],
            temp_convs: vec![conv(), conv()],
            attentions: vec![widths.transformer(channels, head_dim, device)],
            temp_attentions: vec![widths.temporal(channels, head_dim, device)],
        }
    }

    pub(crate) fn forward(&self, mut x: Tensor<B, 4>, pass: &mut Pass<'_, B>) -> Tensor<B, 4> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            x = pass.in_use(resnet).forward(x, &pass.time);
            x = pass.temporal_conv(&self.temp_convs[i], x);
            if let Some(attention) = self.attentions.get(i) {
                x = pass.attend(attention, &self.temp_attentions[i], x);
            }
        }
        x
    }
}

/// `CrossAttnUpBlock3D`, or `UpBlock3D` when it has no attentions.
#[derive(Module, Debug)]
pub(crate) struct UpBlock3D<B: Backend> {
    resnets: Vec<ResnetBlock2D<B>>,
    temp_convs: Vec<TemporalConvLayer<B>>,
    pub(crate) attentions: Vec<Transformer2DModel<B>>,
    temp_attentions: Vec<TransformerTemporalModel<B>>,
    upsamplers: Vec<Upsample2D<B>>,
}

/// Widths around an up block.
#[derive(Clone, Copy)]
pub(crate) struct UpChannels {
    /// Of the block before it, one level further in.
    pub(crate) previous: usize,
    /// Of its own level.
    pub(crate) output: usize,
    /// Of the next level outwards, whose last skip it also takes.
    pub(crate) next: usize,
}

impl<B: Backend> UpBlock3D<B> {
    /// `head_dim` is none for a block without attention.
    pub(crate) fn new(
        channels: UpChannels,
        layers: usize,
        head_dim: Option<usize>,
        upsample: bool,
        widths: Widths,
        device: &B::Device,
    ) -> Self {
        let UpChannels {
            previous,
            output,
            next,
        } = channels;
        let heads = || (0..layers).filter_map(|_| head_dim);
        let resnet = |i: usize| {
            let input = if i == 0 { previous } else { output };
            let skip = if i == layers - 1 { next } else { output };
            widths.resnet(input + skip, output, device)
        };
        Self {
            resnets: (0..layers).map(resnet).collect(),
            temp_convs: (0..layers)
                .map(|_| TemporalConvLayer::new(output, widths.groups, device))
                .collect(),
            attentions: heads()
                .map(|d| widths.transformer(output, d, device))
                .collect(),
            temp_attentions: heads()
                .map(|d| widths.temporal(output, d, device))
                .collect(),
            upsamplers: upsample
                .then(|| Upsample2D::new(output, widths.spatial, device))
                .into_iter()
                .collect(),
        }
    }

    /// Takes one of `skips` per layer.
    pub(crate) fn forward(
        &self,
        mut x: Tensor<B, 4>,
        pass: &mut Pass<'_, B>,
        skips: &mut Vec<Tensor<B, 4>>,
        freeu: Option<FreeU>,
    ) -> Tensor<B, 4> {
        for i in 0..self.len() {
            x = self.layer(i, x, pass, skips, freeu);
        }
        if let (Some(upsampler), Some(next)) = (self.upsamplers.first(), skips.last()) {
            let [_, height, width, _] = next.dims();
            x = pass.in_use(upsampler).forward(x, height, width);
        }
        x
    }

    /// How many layers it has, at least two.
    pub(crate) fn len(&self) -> usize {
        self.resnets.len()
    }

    /// One of its layers, which takes one of `skips`.
    pub(crate) fn layer(
        &self,
        i: usize,
        x: Tensor<B, 4>,
        pass: &mut Pass<'_, B>,
        skips: &mut Vec<Tensor<B, 4>>,
        freeu: Option<FreeU>,
    ) -> Tensor<B, 4> {
        let skip = skips
            .pop()
            .expect("the up blocks have as many layers as the down blocks have pushed");
        let skip = repeated_to(skip, x.dims()[0]);
        let both = match freeu {
            Some(freeu) => freeu.apply(x, skip),
            None => [x, skip],
        };
        let x = pass
            .in_use(&self.resnets[i])
            .forward(Tensor::cat(both.into(), 3), &pass.time);
        let x = pass.temporal_conv(&self.temp_convs[i], x);
        match self.attentions.get(i) {
            Some(attention) => pass.attend(attention, &self.temp_attentions[i], x),
            None => x,
        }
    }
}
