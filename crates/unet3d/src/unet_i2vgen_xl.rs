use std::path::Path;

use burn::{
    module::Module,
    tensor::{DType, Tensor, backend::Backend},
};
use i2vgen_checkpoint::{Folder, save_module, write_json};
use i2vgen_kernels::{Conv2d, GroupNorm};

use crate::{
    Conditioning, DeepCache, I2VGenXLUNetConfig, UNetError,
    backbone::{Backbone, Blocks, repeated_to, with_weights},
    conditioning::{ImageLatentsContextEmbedding, ImageLatentsProjIn},
    embeddings::{Mlp, TimestepEmbedding, sinusoid},
    freeu::FreeU,
    resnet::{RESNET_NORM_EPS, Spatial},
    transformer_temporal::{I2VGenXLTransformerTemporalEncoder, TransformerTemporalModel},
    unet_3d_blocks::{DownBlock3D, MidBlock3D, UpBlock3D},
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

impl<B: Backend> I2VGenXLUNet<B> {
    /// A module with random weights, initialised when first used.
    ///
    /// # Errors
    /// If the config contradicts itself or names unknown blocks.
    pub fn new(config: I2VGenXLUNetConfig, device: &B::Device) -> Result<Self, UNetError> {
        config.check()?;
        let I2VGenXLUNetConfig {
            in_channels,
            norm_num_groups: groups,
            cross_attention_dim: context,
            ..
        } = config;
        let (first, time) = (config.block_out_channels[0], config.time_embed_dim());
        let blocks = Blocks::new(&config.levels(), Spatial::default(), device);
        Ok(Self {
            conv_in: Conv2d::new(2 * in_channels, first, 3, 1, 1, true, device),
            transformer_in: blocks.transformer_in,
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
            time_embedding: TimestepEmbedding::new(first, time, device),
            context_embedding: Mlp::new(context, time, context * in_channels, device),
            fps_embedding: Mlp::new(first, time, time, device),
            down_blocks: blocks.down_blocks,
            mid_block: blocks.mid_block,
            up_blocks: blocks.up_blocks,
            conv_norm_out: GroupNorm::new(groups, first, RESNET_NORM_EPS, device),
            conv_out: Conv2d::new(first, config.out_channels, 3, 1, 1, true, device),
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
        let mut model = with_weights(model, folder, variant, dtype, streamed)?;
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

    /// What it computes in; inputs are converted. (On the CPU the large weights may be in half precision nevertheless.)
    pub fn dtype(&self) -> DType {
        self.conv_norm_out.weight.val().dtype()
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
        self.freeu = FreeU::blocks(s1, s2, b1, b2)?;
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
    /// `image_latents [pictures, 4, frames, h, w]`, where `pictures` divides `rows` and all rows `i`, `i + pictures`, … have
    /// picture `i`: with guidance, give it once.
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
        let [pictures, channels, frames, h, w] = image_latents.dims();
        if channels != self.config.in_channels || pictures * frames * h * w == 0 {
            return Err(UNetError::Shape {
                name: "image_latents",
                found: image_latents.dims().to_vec(),
                expected: format!("[pictures, {}, frames, h, w]", self.config.in_channels),
            });
        }
        let [rows, tokens, text_width] = text.dims();
        if !rows.is_multiple_of(pictures) || rows * tokens == 0 || text_width != width {
            return Err(UNetError::Shape {
                name: "text",
                found: text.dims().to_vec(),
                expected: format!("[a multiple of {pictures}, tokens, {width}]"),
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
            .reshape([pictures, h, w, channels]);
        let local = self.image_latents_context_embedding.forward(first);
        let local = repeated_to(local, rows);
        let global = self
            .context_embedding
            .forward(image_embeddings.cast(dtype))
            .reshape([rows, channels, width]);
        let context = Tensor::cat(vec![text, local, global], 1);
        let text = self.backbone().project(&context);

        let features = self
            .image_latents_proj_in
            .forward(images.reshape([pictures * frames, h, w, channels]))
            .reshape([pictures, frames, h * w, channels]);
        let features = self
            .image_latents_temporal_encoder
            .forward(features)
            .reshape([pictures * frames, h, w, channels]);
        Ok(Conditioning {
            fps,
            features: features * concat_gain,
            text,
            dims: [pictures, frames, h, w],
        })
    }

    /// What the noise prediction is for `latents` at `timestep`, under a conditioning from [`Self::prepare`].
    ///
    /// With fewer `latents` than rows of text the rows `i`, `i + videos`, … share those of video `i`, as the two halves of
    /// guidance do; what does not depend on the text is then computed once.
    ///
    /// # Shapes
    /// `latents [videos, 4, frames, h, w]`, as many as pictures or as rows were prepared → `[rows, 4, frames, h, w]`, in the
    /// model's dtype
    ///
    /// # Errors
    /// If the latents' shape is not the one that was prepared.
    pub fn forward(
        &self,
        latents: Tensor<B, 5>,
        timestep: f64,
        conditioning: &Conditioning<B>,
    ) -> Result<Tensor<B, 5>, UNetError> {
        self.run(latents, timestep, conditioning, None, &mut |_| ())
    }

    /// As [`Self::forward`]. Calls `after` behind each part that the module has, with its name: `conv_in`, `transformer_in`,
    /// `down_blocks.0`, …, `mid_block`, `up_blocks.0`, …, `conv_out`. A GPU may not have begun with it then; for its time,
    /// wait for the device (`Backend::sync`).
    ///
    /// # Shapes
    /// As [`Self::forward`].
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_observed(
        &self,
        latents: Tensor<B, 5>,
        timestep: f64,
        conditioning: &Conditioning<B>,
        after: &mut dyn FnMut(&str),
    ) -> Result<Tensor<B, 5>, UNetError> {
        self.run(latents, timestep, conditioning, None, after)
    }

    /// As [`Self::forward`] if `cache` is empty, and fills it. Otherwise an approximation at a fraction of the work: only the
    /// first and the last layers run on these `latents`, the deep part between them is what the cache holds of an earlier
    /// step (DeepCache, <https://arxiv.org/abs/2312.00858>).
    ///
    /// The caller decides how long the cache serves: [`DeepCache::clear`] makes the next pass a full one. At the latents and
    /// the timestep that it was filled with the result is that of a full pass.
    ///
    /// What runs without the cached part: `conv_in`, `transformer_in`, the last layer of the last up block (residual block,
    /// temporal convolutions, both transformers), which joins the cached features with the outermost skip, and `conv_out`.
    ///
    /// # Shapes
    /// As [`Self::forward`].
    ///
    /// # Errors
    /// As [`Self::forward`], or if the cache holds features of other rows or another size.
    pub fn forward_cached(
        &self,
        latents: Tensor<B, 5>,
        timestep: f64,
        conditioning: &Conditioning<B>,
        cache: &mut DeepCache<B>,
    ) -> Result<Tensor<B, 5>, UNetError> {
        self.run(latents, timestep, conditioning, Some(cache), &mut |_| ())
    }

    fn run(
        &self,
        latents: Tensor<B, 5>,
        timestep: f64,
        conditioning: &Conditioning<B>,
        cache: Option<&mut DeepCache<B>>,
        after: &mut dyn FnMut(&str),
    ) -> Result<Tensor<B, 5>, UNetError> {
        let [pictures, frames, h, w] = conditioning.dims;
        let (rows, channels) = (conditioning.rows(), self.config.in_channels);
        let [videos, ..] = latents.dims();
        let expected = [videos, channels, frames, h, w];
        if latents.dims() != expected || videos != pictures && videos != rows {
            return Err(UNetError::Shape {
                name: "latents",
                found: latents.dims().to_vec(),
                expected: format!(
                    "[{pictures} or {rows}, {channels}, {frames}, {h}, {w}], as prepared"
                ),
            });
        }
        let (device, dtype) = (latents.device(), self.dtype());
        let sinusoid = sinusoid(timestep, self.config.block_out_channels[0], dtype, &device);
        let time = self.time_embedding.forward(sinusoid) + conditioning.fps.clone();
        let x =
            latents
                .cast(dtype)
                .permute([0, 2, 3, 4, 1])
                .reshape([videos * frames, h, w, channels]);
        let features = repeated_to(conditioning.features.clone(), videos * frames);
        let x = Tensor::cat(vec![x, features], 3);
        self.backbone()
            .forward(x, time, frames, &conditioning.text, cache, after)
    }

    fn backbone(&self) -> Backbone<'_, B> {
        Backbone {
            conv_in: &self.conv_in,
            transformer_in: &self.transformer_in,
            down_blocks: &self.down_blocks,
            mid_block: &self.mid_block,
            up_blocks: &self.up_blocks,
            conv_norm_out: &self.conv_norm_out,
            conv_out: &self.conv_out,
            freeu: self.freeu,
            streamed: self.streamed,
        }
    }
}
