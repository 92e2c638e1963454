use std::path::Path;

use burn::{
    module::Module,
    tensor::{DType, Tensor, backend::Backend},
};
use i2vgen_checkpoint::{Folder, save_module, write_json};
use i2vgen_kernels::{Conv2d, GroupNorm};

use crate::{
    TextConditioning, UNet3DConditionModelConfig, UNetError,
    backbone::{Backbone, Blocks, with_weights},
    embeddings::{TimestepEmbedding, sinusoid},
    freeu::FreeU,
    resnet::RESNET_NORM_EPS,
    transformer_temporal::TransformerTemporalModel,
    unet_3d_blocks::{DownBlock3D, MidBlock3D, UpBlock3D},
};

/// The denoiser of text-to-video models and of the second stage (diffusers `models/unets/unet_3d_condition.py`):
/// [`I2VGenXLUNet`](crate::I2VGenXLUNet) without everything that looks at an image or a frame rate. With the two keys of
/// [`UNet3DConditionModelConfig`] it is that of MS-Vid2Vid-XL.
#[derive(Module, Debug)]
pub struct UNet3DConditionModel<B: Backend> {
    conv_in: Conv2d<B>,
    time_embedding: TimestepEmbedding<B>,
    transformer_in: TransformerTemporalModel<B>,
    down_blocks: Vec<DownBlock3D<B>>,
    mid_block: MidBlock3D<B>,
    up_blocks: Vec<UpBlock3D<B>>,
    conv_norm_out: GroupNorm<B>,
    conv_out: Conv2d<B>,
    /// What the module was built from.
    #[module(skip)]
    pub config: UNet3DConditionModelConfig,
    /// Of the first two up blocks.
    #[module(skip)]
    freeu: Option<[FreeU; 2]>,
    /// Whether layers are read from disk each time that they are used.
    #[module(skip)]
    streamed: bool,
}

impl<B: Backend> UNet3DConditionModel<B> {
    /// A module with random weights, initialised when first used.
    ///
    /// # Errors
    /// If the config contradicts itself or asks for what no published model has.
    pub fn new(config: UNet3DConditionModelConfig, device: &B::Device) -> Result<Self, UNetError> {
        config.check()?;
        let first = config.block_out_channels[0];
        let blocks = Blocks::new(&config.levels(), config.spatial(), device);
        Ok(Self {
            conv_in: Conv2d::new(config.in_channels, first, 3, 1, 1, true, device),
            time_embedding: TimestepEmbedding::new(first, config.time_embed_dim(), device),
            transformer_in: blocks.transformer_in,
            down_blocks: blocks.down_blocks,
            mid_block: blocks.mid_block,
            up_blocks: blocks.up_blocks,
            conv_norm_out: GroupNorm::new(config.norm_num_groups, first, RESNET_NORM_EPS, device),
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
            config: &'a UNet3DConditionModelConfig,
        }
        let path = path.as_ref();
        let weights = path.join("diffusion_pytorch_model.safetensors");
        save_module(self, &weights, dtype)?;
        let saved = Saved {
            _class_name: "UNet3DConditionModel",
            config: &self.config,
        };
        Ok(write_json(&path.join("config.json"), &saved)?)
    }

    /// What it computes in; inputs are converted. (On the CPU the large weights may be in half precision nevertheless.)
    pub fn dtype(&self) -> DType {
        self.conv_norm_out.weight.val().dtype()
    }

    /// Turns FreeU on, as [`I2VGenXLUNet::enable_freeu`](crate::I2VGenXLUNet::enable_freeu).
    ///
    /// # Errors
    /// If a factor is not finite; the setting before stays.
    pub fn enable_freeu(&mut self, s1: f64, s2: f64, b1: f64, b2: f64) -> Result<(), UNetError> {
        self.freeu = FreeU::blocks(s1, s2, b1, b2)?;
        Ok(())
    }

    /// Turns FreeU off.
    pub fn disable_freeu(&mut self) {
        self.freeu = None;
    }

    /// What does not depend on the timestep or the noisy latents: do it once, then call [`Self::forward`] per step.
    ///
    /// # Shapes
    /// `text [rows, tokens, cross_attention_dim]`
    ///
    /// # Errors
    /// If the text has another width.
    pub fn prepare(&self, text: Tensor<B, 3>) -> Result<TextConditioning<B>, UNetError> {
        let width = self.config.cross_attention_dim;
        let [rows, tokens, text_width] = text.dims();
        if rows * tokens == 0 || text_width != width {
            return Err(UNetError::Shape {
                name: "text",
                found: text.dims().to_vec(),
                expected: format!("[rows, tokens, {width}]"),
            });
        }
        Ok(self.backbone().project(&text.cast(self.dtype())))
    }

    /// What the prediction is for `latents` at `timestep`, under a conditioning from [`Self::prepare`].
    ///
    /// With fewer `latents` than rows of text the rows `i`, `i + videos`, … share those of video `i`, as the two halves of
    /// guidance do; what does not depend on the text is then computed once.
    ///
    /// # Shapes
    /// `latents [videos, in, frames, h, w]`, where `videos` divides the rows of text → `[rows, out, frames, h, w]`, in the
    /// model's dtype
    ///
    /// # Errors
    /// If the latents have another number of channels or rows, or a height that this UNet cannot take (see
    /// [`UNet3DConditionModelConfig::nearest_height`]).
    pub fn forward(
        &self,
        latents: Tensor<B, 5>,
        timestep: f64,
        text: &TextConditioning<B>,
    ) -> Result<Tensor<B, 5>, UNetError> {
        let (rows, channels) = (text.rows, self.config.in_channels);
        let dims @ [videos, c, frames, h, w] = latents.dims();
        let legal = self.config.nearest_height(h);
        if dims.contains(&0) || c != channels || !rows.is_multiple_of(videos) || legal != h {
            return Err(UNetError::Shape {
                name: "latents",
                found: dims.to_vec(),
                expected: format!("[a divisor of {rows}, {channels}, frames, {legal}, w]"),
            });
        }
        let (device, dtype) = (latents.device(), self.dtype());
        let sinusoid = sinusoid(timestep, self.config.block_out_channels[0], dtype, &device);
        let time = self.time_embedding.forward(sinusoid);
        let x =
            latents
                .cast(dtype)
                .permute([0, 2, 3, 4, 1])
                .reshape([videos * frames, h, w, channels]);
        self.backbone()
            .forward(x, time, frames, text, None, &mut |_| ())
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
