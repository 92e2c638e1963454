//! What both UNets do between their first convolution and their last.

use std::borrow::Cow;

use burn::{
    module::Module,
    tensor::{DType, Tensor, backend::Backend},
};
use i2vgen_checkpoint::{Folder, LoadOptions, Stem, Weights, load_module};
use i2vgen_kernels::{Conv2d, GroupNorm, silu, takes_half_weights};

use crate::{
    UNetError,
    conditioning::TextConditioning,
    deep_cache::DeepCache,
    freeu::FreeU,
    levels::Levels,
    resnet::Spatial,
    transformer_2d::Transformer2DModel,
    transformer_temporal::TransformerTemporalModel,
    unet_3d_blocks::{DownBlock3D, MidBlock3D, Pass, UpBlock3D, UpChannels, Widths},
};

/// Heads of the transformer in front of the first level, whatever the config says.
const TRANSFORMER_IN_HEADS: usize = 8;

/// Blocks of random weights, initialised when first used.
pub(crate) struct Blocks<B: Backend> {
    pub(crate) transformer_in: TransformerTemporalModel<B>,
    pub(crate) down_blocks: Vec<DownBlock3D<B>>,
    pub(crate) mid_block: MidBlock3D<B>,
    pub(crate) up_blocks: Vec<UpBlock3D<B>>,
}

impl<B: Backend> Blocks<B> {
    /// `levels` has been checked.
    pub(crate) fn new(levels: &Levels<'_>, spatial: Spatial, device: &B::Device) -> Self {
        let channels = levels.block_out_channels;
        let widths = Widths {
            time: 4 * channels[0],
            context: levels.cross_attention_dim,
            groups: levels.norm_num_groups,
            spatial,
        };
        let head_dims = levels.head_dims();
        let last = channels.len() - 1;
        let down_blocks = (0..=last).map(|i| {
            let crosses = levels.down_block_types[i] == "CrossAttnDownBlock3D";
            let head_dim = crosses.then_some(head_dims[i]);
            let (input, layers) = (channels[i.saturating_sub(1)], levels.layers_per_block);
            DownBlock3D::new(
                input,
                channels[i],
                layers,
                head_dim,
                i < last,
                widths,
                device,
            )
        });
        let up_blocks = (0..=last).map(|i| {
            let level = last - i;
            let crosses = levels.up_block_types[i] == "CrossAttnUpBlock3D";
            let head_dim = crosses.then_some(head_dims[level]);
            let around = UpChannels {
                previous: channels[last.min(level + 1)],
                output: channels[level],
                next: channels[level.saturating_sub(1)],
            };
            let layers = levels.layers_per_block + 1;
            UpBlock3D::new(around, layers, head_dim, i < last, widths, device)
        });
        Self {
            transformer_in: TransformerTemporalModel::new(
                channels[0],
                TRANSFORMER_IN_HEADS,
                head_dims[0],
                levels.norm_num_groups,
                device,
            ),
            down_blocks: down_blocks.collect(),
            mid_block: MidBlock3D::new(channels[last], head_dims[last], widths, device),
            up_blocks: up_blocks.collect(),
        }
    }
}

/// A view of a UNet's layers.
pub(crate) struct Backbone<'a, B: Backend> {
    pub(crate) conv_in: &'a Conv2d<B>,
    pub(crate) transformer_in: &'a TransformerTemporalModel<B>,
    pub(crate) down_blocks: &'a [DownBlock3D<B>],
    pub(crate) mid_block: &'a MidBlock3D<B>,
    pub(crate) up_blocks: &'a [UpBlock3D<B>],
    pub(crate) conv_norm_out: &'a GroupNorm<B>,
    pub(crate) conv_out: &'a Conv2d<B>,
    /// Of the first two up blocks.
    pub(crate) freeu: Option<[FreeU; 2]>,
    /// See [`in_use`].
    pub(crate) streamed: bool,
}

impl<B: Backend> Backbone<'_, B> {
    /// Keys and values of every cross-attention.
    pub(crate) fn project(&self, context: &Tensor<B, 3>) -> TextConditioning<B> {
        let project =
            |layer| in_use::<Transformer2DModel<B>>(layer, self.streamed).project(context);
        TextConditioning {
            contexts: self.spatial_transformers().map(project).collect(),
            rows: context.dims()[0],
        }
    }

    /// Rows of `x` that several rows of the text share are computed once until they first meet the text.
    ///
    /// An empty `cache` is filled with what enters the last layer; a filled one gives that, so that only what is around it is
    /// computed.
    ///
    /// `after` is called behind each part, with its name.
    ///
    /// # Shapes
    /// `x [shared · frames, h, w, in]`, `time [1, time_dim]`, text of `rows`, a multiple of `shared` →
    /// `[rows, out, frames, h, w]`
    pub(crate) fn forward(
        &self,
        x: Tensor<B, 4>,
        time: Tensor<B, 2>,
        frames: usize,
        text: &TextConditioning<B>,
        cache: Option<&mut DeepCache<B>>,
        after: &mut dyn FnMut(&str),
    ) -> Result<Tensor<B, 5>, UNetError> {
        if text.contexts.len() != self.spatial_transformers().count() {
            return Err(UNetError::ForeignConditioning);
        }
        let (last, inner) = self.up_blocks();
        let mut pass = Pass {
            time: silu(time),
            frames,
            rows: text.rows,
            streamed: self.streamed,
            contexts: text.contexts.iter(),
        };
        let x = self.conv_in.forward(x);
        after("conv_in");
        let x = pass.temporal(self.transformer_in, x);
        after("transformer_in");
        let mut skips = vec![x.clone()];
        let x = match cache {
            None => self.deep(x, &mut pass, &mut skips, after),
            Some(cache) => match &cache.deep {
                None => {
                    let deep = self.deep(x, &mut pass, &mut skips, after);
                    cache.deep = Some(deep.clone());
                    deep
                }
                Some(deep) => {
                    let [_, h, w, channels] = x.dims();
                    if deep.dims() != [text.rows * frames, h, w, channels] {
                        return Err(UNetError::ForeignCache);
                    }
                    // The last layer is all that still meets the text, if it does.
                    let met = text.contexts.len() - last.attentions.len().min(1);
                    pass.contexts = text.contexts[met..].iter();
                    deep.clone()
                }
            },
        };
        let freeu = self.freeu_of(inner.len());
        let x = last.layer(last.len() - 1, x, &mut pass, &mut skips, freeu);
        after(&format!("up_blocks.{}", inner.len()));
        let x = self.conv_out.forward(self.conv_norm_out.forward_silu(x));
        after("conv_out");
        let [_, h, w, out] = x.dims();
        Ok(x.reshape([text.rows, frames, h, w, out])
            .permute([0, 4, 1, 2, 3]))
    }

    /// Everything between the first layers and the last layer of the last up block; its skip is left.
    fn deep(
        &self,
        mut x: Tensor<B, 4>,
        pass: &mut Pass<'_, B>,
        skips: &mut Vec<Tensor<B, 4>>,
        after: &mut dyn FnMut(&str),
    ) -> Tensor<B, 4> {
        for (i, block) in self.down_blocks.iter().enumerate() {
            x = block.forward(x, pass, skips);
            after(&format!("down_blocks.{i}"));
        }
        x = self.mid_block.forward(x, pass);
        after("mid_block");
        let (last, inner) = self.up_blocks();
        for (i, block) in inner.iter().enumerate() {
            x = block.forward(x, pass, skips, self.freeu_of(i));
            after(&format!("up_blocks.{i}"));
        }
        for i in 0..last.len() - 1 {
            x = last.layer(i, x, pass, skips, self.freeu_of(inner.len()));
        }
        x
    }

    /// The last up block and those before it.
    fn up_blocks(&self) -> (&UpBlock3D<B>, &[UpBlock3D<B>]) {
        let blocks = self.up_blocks.split_last();
        blocks.expect("a checked config has levels")
    }

    /// FreeU's factors in this up block.
    fn freeu_of(&self, up_block: usize) -> Option<FreeU> {
        self.freeu?.get(up_block).copied()
    }

    /// Those with cross-attention, in forward order.
    fn spatial_transformers(&self) -> impl Iterator<Item = &Transformer2DModel<B>> {
        let down = self.down_blocks.iter().flat_map(|b| &b.attentions);
        let up = self.up_blocks.iter().flat_map(|b| &b.attentions);
        down.chain(&self.mid_block.attentions).chain(up)
    }
}

/// A layer for the time that it is used. A streamed one is a clone, which reads its own weights and drops them with itself.
pub(crate) fn in_use<M: Clone>(layer: &M, streamed: bool) -> Cow<'_, M> {
    match streamed {
        true => Cow::Owned(layer.clone()),
        false => Cow::Borrowed(layer),
    }
}

/// Consecutive copies of the whole along the first axis, as many as give `n` entries.
pub(crate) fn repeated_to<B: Backend, const D: usize>(x: Tensor<B, D>, n: usize) -> Tensor<B, D> {
    match n / x.dims()[0] {
        1 => x,
        copies => x.repeat_dim(0, copies),
    }
}

/// A UNet with the weights of its folder, read now or, if `streamed`, when they are used.
pub(crate) fn with_weights<B: Backend, M: Module<B>>(
    model: M,
    folder: &Folder,
    variant: Option<&str>,
    dtype: DType,
    streamed: bool,
) -> Result<M, UNetError> {
    let weights = Weights::open(folder, Stem::Diffusers, variant)?;
    let options = LoadOptions {
        keep_half: takes_half_weights::<B>(),
        dtype,
        lazy: streamed,
        ..Default::default()
    };
    Ok(load_module(model, &weights, &options)?)
}
