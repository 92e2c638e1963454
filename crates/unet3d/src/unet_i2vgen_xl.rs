use std::path::Path;

use burn::{
    module::Module,
    tensor::{DType, Tensor, backend::Backend},
};
use i2vgen_checkpoint::{Folder, LoadOptions, Stem, Weights, load_module, save_module, write_json};
use i2vgen_kernels::{Conv2d, GroupNorm, silu};

use crate::{
    Conditioning, I2VGenXLUNetConfig, UNetError,
    conditioning::{ImageLatentsContextEmbedding, ImageLatentsProjIn},
    embeddings::{Mlp, TimestepEmbedding, sinusoid},
    freeu::FreeU,
    resnet::RESNET_NORM_EPS,
    transformer_2d::Transformer2DModel,
    transformer_temporal::{I2VGenXLTransformerTemporalEncoder, TransformerTemporalModel},
    unet_3d_blocks::{DownBlock3D, MidBlock3D, Pass, UpBlock3D, UpChannels, Widths, in_use},
};

/// The denoiser of I2VGen-XL (diffusers `models/unets/unet_i2vgen_xl.py`).
#[derive(Module, Debug)]
pub struct I2VGenXLUNet<B: Backend> {
    conv_in: Conv2d<B>,
    transformer_in: TransformerTemporalModel<B>,
    image_latents_proj_in: ImageLatentsProjIn<B>,
    image_latents_temporal_encoder: I2VGenXLTransformerTemporalEncoder<B>,
    image_latents_context_embedding: ImageLatentsContextEmbedding<B>,
    time_embedding: TimestepEmbedding<B>,
    context_embedding: Mlp<B>,
    fps_embedding: Mlp<B>,
    down_blocks: Vec<DownBlock3D<B>>,
    mid_block: MidBlock3D<B>,
    up_blocks: Vec<UpBlock3D<B>>,
    conv_norm_out: GroupNorm<B>,
    conv_out: Conv2d<B>,
    /// What the module was built from.
    #[module(skip)]
    pub config: I2VGenXLUNetConfig,
    /// Of the first two up blocks.
    #[module(skip)]
    freeu: Option<[FreeU; 2]>,
    /// Whether layers are read from disk each time that they are used.
    #[module(skip)]
    streamed: bool,
}

/// Heads of the transformer in front of the first level, whatever the config says.
const TRANSFORMER_IN_HEADS: usize = 8;

impl<B: Backend> I2VGenXLUNet<B> {
    /// A module with random weights, initialised when first used.
    ///
    /// # Errors
    /// If the config contradicts itself or names unknown blocks.
    pub fn new(config: I2VGenXLUNetConfig, device: &B::Device) -> Result<Self, UNetError> {
        config.check()?;
        let I2VGenXLUNetConfig {
            in_channels,
            layers_per_block,
            norm_num_groups: groups,
            cross_attention_dim: context,
            ..
        } = config;
        let channels = &config.block_out_channels;
        let time = config.time_embed_dim();
        let widths = Widths {
            time,
            context,
            groups,
        };
        let head_dims = config.head_dims();
        let last = channels.len() - 1;
        let down_blocks = (0..=last).map(|i| {
            let head_dim =
                (config.down_block_types[i] == "CrossAttnDownBlock3D").then_some(head_dims[i]);
            let input = channels[i.saturating_sub(1)];
            let layers = layers_per_block;
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
            let head_dim =
                (config.up_block_types[i] == "CrossAttnUpBlock3D").then_some(head_dims[level]);
            let around = UpChannels {
                previous: channels[last.min(level + 1)],
                output: channels[level],
                next: channels[level.saturating_sub(1)],
            };
            let layers = layers_per_block + 1;
            UpBlock3D::new(around, layers, head_dim, i < last, widths, device)
        });
        Ok(Self {
            conv_in: Conv2d::new(2 * in_channels, channels[0], 3, 1, 1, true, device),
            transformer_in: TransformerTemporalModel::new(
                channels[0],
                TRANSFORMER_IN_HEADS,
                head_dims[0],
                groups,
                device,
            ),
            image_latents_proj_in: ImageLatentsProjIn::new(in_channels, device),
            image_latents_temporal_encoder: I2VGenXLTransformerTemporalEncoder::new(
                in_channels,
                device,
            ),
            image_latents_context_embedding: ImageLatentsContextEmbedding::new(
                in_channels,
                context,
                device,
            ),
            time_embedding: TimestepEmbedding::new(channels[0], time, device),
            context_embedding: Mlp::new(context, time, context * in_channels, device),
            fps_embedding: Mlp::new(channels[0], time, time, device),
            down_blocks: down_blocks.collect(),
            mid_block: MidBlock3D::new(channels[last], head_dims[last], widths, device),
            up_blocks: up_blocks.collect(),
            conv_norm_out: GroupNorm::new(groups, channels[0], RESNET_NORM_EPS, device),
            conv_out: Conv2d::new(channels[0], config.out_channels, 3, 1, 1, true, device),
            config,
            freeu: None,
            streamed: false,
        })
    }

    /// Loads a diffusers `unet` folder in f32.
    ///
    /// # Errors
    /// If the folder is incomplete or its weights do not fit its config.
    pub fn from_pretrained(path: impl AsRef<Path>, device: &B::Device) -> Result<Self, UNetError> {
        Self::from_folder(&Folder::open(path)?, None, DType::F32, device)
    }

    /// Loads a `unet` folder with a choice of variant (`fp16`) and dtype.
    ///
    /// # Errors
    /// As [`Self::from_pretrained`].
    pub fn from_folder(
        folder: &Folder,
        variant: Option<&str>,
        dtype: DType,
        device: &B::Device,
    ) -> Result<Self, UNetError> {
        Self::load(folder, variant, dtype, false, device)
    }

    /// Opens a `unet` folder whose layers are read each time that they are used: one of them is in memory at a time, at the
    /// cost of reading the file once per forward pass. The numbers are the same.
    ///
    /// # Errors
    /// As [`Self::from_pretrained`].
    pub fn from_folder_streamed(
        folder: &Folder,
        variant: Option<&str>,
        dtype: DType,
        device: &B::Device,
    ) -> Result<Self, UNetError> {
        Self::load(folder, variant, dtype, true, device)
    }

    fn load(
        folder: &Folder,
        variant: Option<&str>,
        dtype: DType,
        streamed: bool,
        device: &B::Device,
    ) -> Result<Self, UNetError> {
        let model = Self::new(folder.read_json("config.json")?, device)?;
        let weights = Weights::open(folder, Stem::Diffusers, variant)?;
        let options = LoadOptions {
            dtype,
            lazy: streamed,
            ..Default::default()
        };
        let mut model = load_module(model, &weights, &options)?;
        model.streamed = streamed;
        Ok(model)
    }

    /// Writes `config.json` and the weights to an existing folder.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn save_pretrained(&self, path: impl AsRef<Path>, dtype: DType) -> Result<(), UNetError> {
        #[derive(serde::Serialize)]
        struct Saved<'a> {
            _class_name: &'static str,
            #[serde(flatten)]
            config: &'a I2VGenXLUNetConfig,
        }
        let path = path.as_ref();
        let weights = path.join("diffusion_pytorch_model.safetensors");
        save_module(self, &weights, dtype)?;
        let saved = Saved {
            _class_name: "I2VGenXLUNet",
            config: &self.config,
        };
        Ok(write_json(&path.join("config.json"), &saved)?)
    }

    /// What the weights are in, and so the computation; inputs are converted.
    pub fn dtype(&self) -> DType {
        self.conv_in.weight.val().dtype()
    }

    /// Turns FreeU on for the next calls of [`Self::forward`]: in the first two up blocks, before every concatenation, half
    /// of the backbone's channels are multiplied by `b1` or `b2` and the low frequencies of the skips by `s1` or `s2`
    /// (<https://arxiv.org/abs/2309.11497>). Its authors use 0.9, 0.2, 1.4, 1.6 for Stable Diffusion 2.1.
    ///
    /// As in diffusers, a factor of 0 turns it off.
    ///
    /// # Errors
    /// If a factor is not a finite number.
    pub fn enable_freeu(&mut self, s1: f64, s2: f64, b1: f64, b2: f64) -> Result<(), UNetError> {
        let factors = [s1, s2, b1, b2];
        if factors.iter().any(|factor| !factor.is_finite()) {
            return Err(UNetError::FreeU(factors));
        }
        let block = |skip, backbone| FreeU { backbone, skip };
        let on = factors.iter().all(|factor| *factor != 0.0);
        self.freeu = on.then(|| [block(s1, b1), block(s2, b2)]);
        Ok(())
    }

    /// Turns FreeU off.
    pub fn disable_freeu(&mut self) {
        self.freeu = None;
    }

    /// Everything that does not depend on the timestep or the noisy latents: do it once, then call
    /// [`Self::forward`] per step.
    ///
    /// `concat_gain` multiplies the image features that are concatenated to the noise: 1 in diffusers, 2 in the
    /// authors' code (reference `overview.md` §12.1).
    ///
    /// # Shapes
    /// `text [rows, tokens, cross_attention_dim]`, `image_embeddings [rows, 1, cross_attention_dim]`,
    /// `image_latents [rows, 4, frames, h, w]`
    ///
    /// # Errors
    /// If a tensor has another shape.
    pub fn prepare(
        &self,
        text: Tensor<B, 3>,
        image_embeddings: Tensor<B, 3>,
        image_latents: Tensor<B, 5>,
        fps: f64,
        concat_gain: f64,
    ) -> Result<Conditioning<B>, UNetError> {
        let width = self.config.cross_attention_dim;
        let [rows, channels, frames, h, w] = image_latents.dims();
        if channels != self.config.in_channels || rows * frames * h * w == 0 {
            return Err(UNetError::Shape {
                name: "image_latents",
                found: image_latents.dims().to_vec(),
                expected: format!("[rows, {}, frames, h, w]", self.config.in_channels),
            });
        }
        let [text_rows, tokens, text_width] = text.dims();
        if text_rows != rows || tokens == 0 || text_width != width {
            return Err(UNetError::Shape {
                name: "text",
                found: text.dims().to_vec(),
                expected: format!("[{rows}, tokens, {width}]"),
            });
        }
        if image_embeddings.dims() != [rows, 1, width] {
            return Err(UNetError::Shape {
                name: "image_embeddings",
                found: image_embeddings.dims().to_vec(),
                expected: format!("[{rows}, 1, {width}]"),
            });
        }
        let device = text.device();
        let dtype = self.dtype();
        let text = text.cast(dtype);

        let sinusoid = sinusoid(fps, self.config.block_out_channels[0], dtype, &device);
        let fps = self.fps_embedding.forward(sinusoid);

        let images = image_latents.cast(dtype).permute([0, 2, 3, 4, 1]);
        let first = images
            .clone()
            .narrow(1, 0, 1)
            .reshape([rows, h, w, channels]);
        let local = self.image_latents_context_embedding.forward(first);
        let global = self
            .context_embedding
            .forward(image_embeddings.cast(dtype))
            .reshape([rows, channels, width]);
        let context = Tensor::cat(vec![text, local, global], 1);
        let contexts = self
            .spatial_transformers()
            .map(|transformer| in_use(transformer, self.streamed).project(&context))
            .collect();

        let features = self
            .image_latents_proj_in
            .forward(images.reshape([rows * frames, h, w, channels]))
            .reshape([rows, frames, h * w, channels]);
        let features = self
            .image_latents_temporal_encoder
            .forward(features)
            .reshape([rows * frames, h, w, channels]);
        Ok(Conditioning {
            fps,
            features: features * concat_gain,
            contexts,
            dims: [rows, frames, h, w],
        })
    }

    /// What the noise prediction is for `latents` at `timestep`, under a conditioning from [`Self::prepare`].
    ///
    /// # Shapes
    /// `latents [rows, 4, frames, h, w]` → the same, in the model's dtype
    ///
    /// # Errors
    /// If the latents' shape is not the one that was prepared.
    pub fn forward(
        &self,
        latents: Tensor<B, 5>,
        timestep: f64,
        conditioning: &Conditioning<B>,
    ) -> Result<Tensor<B, 5>, UNetError> {
        let [rows, frames, h, w] = conditioning.dims;
        let channels = self.config.in_channels;
        if latents.dims() != [rows, channels, frames, h, w] {
            return Err(UNetError::Shape {
                name: "latents",
                found: latents.dims().to_vec(),
                expected: format!("{:?}, as prepared", [rows, channels, frames, h, w]),
            });
        }
        if conditioning.contexts.len() != self.spatial_transformers().count() {
            return Err(UNetError::ForeignConditioning);
        }
        let (device, dtype) = (latents.device(), self.dtype());
        let sinusoid = sinusoid(timestep, self.config.block_out_channels[0], dtype, &device);
        let time = self.time_embedding.forward(sinusoid) + conditioning.fps.clone();
        let mut pass = Pass {
            time: silu(time),
            frames,
            streamed: self.streamed,
            contexts: conditioning.contexts.iter(),
        };

        let x =
            latents
                .cast(dtype)
                .permute([0, 2, 3, 4, 1])
                .reshape([rows * frames, h, w, channels]);
        let x = Tensor::cat(vec![x, conditioning.features.clone()], 3);
        let x = self.conv_in.forward(x);
        let mut x = pass.temporal(&self.transformer_in, x);
        let mut skips = vec![x.clone()];
        for block in &self.down_blocks {
            x = block.forward(x, &mut pass, &mut skips);
        }
        x = self.mid_block.forward(x, &mut pass);
        for (i, block) in self.up_blocks.iter().enumerate() {
            let freeu = self.freeu.and_then(|blocks| blocks.get(i).copied());
            x = block.forward(x, &mut pass, &mut skips, freeu);
        }
        let x = self.conv_out.forward(self.conv_norm_out.forward_silu(x));
        Ok(x.reshape([rows, frames, h, w, self.config.out_channels])
            .permute([0, 4, 1, 2, 3]))
    }

    /// Those with cross-attention, in forward order.
    fn spatial_transformers(&self) -> impl Iterator<Item = &Transformer2DModel<B>> {
        let down = self.down_blocks.iter().flat_map(|b| &b.attentions);
        let up = self.up_blocks.iter().flat_map(|b| &b.attentions);
        down.chain(&self.mid_block.attentions).chain(up)
    }
}
