use std::path::Path;

use burn::{
    module::Module,
    tensor::{DType, Tensor, backend::Backend},
};
use i2vgen_checkpoint::{Folder, LoadOptions, Stem, Weights, load_module, save_module, write_json};
use i2vgen_kernels::{Conv2d, in_turns, takes_half_weights};

use crate::{
    AutoencoderKLConfig, DiagonalGaussianDistribution, Tiling, VaeError,
    tiling::{Grid, Scale},
    vae::{Decoder, Encoder},
};

/// The image autoencoder (diffusers `models/autoencoders/autoencoder_kl.py`).
#[derive(Module, Debug)]
pub struct AutoencoderKL<B: Backend> {
    encoder: Encoder<B>,
    decoder: Decoder<B>,
    quant_conv: Option<Conv2d<B>>,
    post_quant_conv: Option<Conv2d<B>>,
    /// What the module was built from.
    #[module(skip)]
    pub config: AutoencoderKLConfig,
    #[module(skip)]
    use_slicing: bool,
    #[module(skip)]
    tiles: Option<Grid>,
}

impl<B: Backend> AutoencoderKL<B> {
    /// A module with random weights, initialised when first used.
    ///
    /// # Errors
    /// If the config describes another kind of autoencoder.
    pub fn new(config: AutoencoderKLConfig, device: &B::Device) -> Result<Self, VaeError> {
        config.check()?;
        let conv = |c| Conv2d::new(c, c, 1, 1, 0, true, device);
        Ok(Self {
            encoder: Encoder::new(&config, device),
            decoder: Decoder::new(&config, device),
            quant_conv: config
                .use_quant_conv
                .then(|| conv(2 * config.latent_channels)),
            post_quant_conv: config
                .use_post_quant_conv
                .then(|| conv(config.latent_channels)),
            config,
            use_slicing: false,
            tiles: None,
        })
    }

    /// Loads a diffusers `vae` folder in f32.
    ///
    /// # Errors
    /// If the folder is incomplete or its weights do not fit its config.
    pub fn from_pretrained(path: impl AsRef<Path>, device: &B::Device) -> Result<Self, VaeError> {
        Self::from_folder(&Folder::open(path)?, None, DType::F32, device)
    }

    /// Loads a `vae` folder with a choice of variant (`fp16`) and dtype.
    ///
    /// # Errors
    /// As [`Self::from_pretrained`].
    pub fn from_folder(
        folder: &Folder,
        variant: Option<&str>,
        dtype: DType,
        device: &B::Device,
    ) -> Result<Self, VaeError> {
        let model = Self::new(folder.read_json("config.json")?, device)?;
        let weights = Weights::open(folder, Stem::Diffusers, variant)?;
        Ok(load_module(
            model,
            &weights,
            &LoadOptions {
                keep_half: takes_half_weights::<B>(),
                dtype,
                rename: &current_name,
                ..Default::default()
            },
        )?)
    }

    /// Writes `config.json` and the weights to an existing folder.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn save_pretrained(&self, path: impl AsRef<Path>, dtype: DType) -> Result<(), VaeError> {
        #[derive(serde::Serialize)]
        struct Saved<'a> {
            _class_name: &'static str,
            #[serde(flatten)]
            config: &'a AutoencoderKLConfig,
        }
        let path = path.as_ref();
        save_module(
            self,
            &path.join("diffusion_pytorch_model.safetensors"),
            dtype,
        )?;
        let saved = Saved {
            _class_name: "AutoencoderKL",
            config: &self.config,
        };
        Ok(write_json(&path.join("config.json"), &saved)?)
    }

    /// What it computes in; inputs are converted. (On the CPU the large weights may be in half precision nevertheless.)
    pub fn dtype(&self) -> DType {
        self.decoder.dtype()
    }

    /// Encodes and decodes the images of a batch one after the other: less memory, the same numbers.
    pub fn enable_slicing(&mut self) {
        self.use_slicing = true;
    }

    /// Encodes and decodes all images of a batch together, as in the beginning.
    pub fn disable_slicing(&mut self) {
        self.use_slicing = false;
    }

    /// Encodes and decodes images that are larger than a tile in overlapping tiles: less memory, but close, not equal
    /// numbers. Without a choice the tiles are [`Tiling::of`] the config.
    ///
    /// # Errors
    /// If the tiles are not made of whole latents or the overlap is not in 0..1; the setting before stays.
    pub fn enable_tiling(&mut self, tiling: Option<Tiling>) -> Result<(), VaeError> {
        let tiling = tiling.unwrap_or_else(|| Tiling::of(&self.config));
        self.tiles = Some(tiling.grid(&self.config)?);
        Ok(())
    }

    /// Encodes and decodes whole images, as in the beginning.
    pub fn disable_tiling(&mut self) {
        self.tiles = None;
    }

    /// The distribution of latents of an image, not yet multiplied by the scaling factor.
    ///
    /// # Shapes
    /// `[n, 3, h, w]` in −1..1 → `[n, latent, h/s, w/s]`
    ///
    /// # Errors
    /// If the image has other channels or is smaller than one latent.
    pub fn encode(&self, x: Tensor<B, 4>) -> Result<DiagonalGaussianDistribution<B>, VaeError> {
        let [_, channels, height, width] = x.dims();
        let factor = self.config.scale_factor();
        if channels != self.config.in_channels || height < factor || width < factor {
            let expected = self.config.in_channels;
            return Err(VaeError::ImageShape {
                height,
                width,
                channels,
                expected,
                factor,
            });
        }
        let scale = Scale {
            input: factor,
            output: 1,
        };
        let moments = self.map(x, scale, |x| {
            let h = self.encoder.forward(x);
            match &self.quant_conv {
                Some(conv) => conv.forward(h),
                None => h,
            }
        });
        Ok(DiagonalGaussianDistribution::new(moments))
    }

    /// The image of latents that are already divided by the scaling factor.
    ///
    /// # Shapes
    /// `[n, latent, h, w]` → `[n, 3, h·s, w·s]`, about −1..1, not clamped
    ///
    /// # Errors
    /// If the latents have other channels.
    pub fn decode(&self, z: Tensor<B, 4>) -> Result<Tensor<B, 4>, VaeError> {
        let [_, channels, _, _] = z.dims();
        let expected = self.config.latent_channels;
        if channels != expected {
            return Err(VaeError::LatentShape { channels, expected });
        }
        let scale = Scale {
            input: 1,
            output: self.config.scale_factor(),
        };
        Ok(self.map(z, scale, |z| {
            let z = match &self.post_quant_conv {
                Some(conv) => conv.forward(z),
                None => z,
            };
            self.decoder.forward(z)
        }))
    }

    /// Applies `f`, which is channels-last, to slices and tiles of `x` as they are enabled.
    ///
    /// # Shapes
    /// `[n, c, h, w]` → `[n, d, h', w']`
    fn map(
        &self,
        x: Tensor<B, 4>,
        scale: Scale,
        f: impl Fn(Tensor<B, 4>) -> Tensor<B, 4>,
    ) -> Tensor<B, 4> {
        let x = x.cast(self.dtype()).permute([0, 2, 3, 1]);
        let [images, height, width, _] = x.dims();
        let tiles = self
            .tiles
            .filter(|tiles| tiles.is_exceeded_by([height, width], scale.input));
        let slice = if self.use_slicing { 1 } else { images };
        let y = in_turns(x, slice, 0, |x, _| match tiles {
            Some(tiles) => tiles.map(x, scale, &f),
            None => f(x),
        });
        y.permute([0, 3, 1, 2])
    }
}

/// Old diffusers versions called the attention's layers otherwise (reference `vae.md` §5).
fn current_name(key: &str) -> Option<String> {
    const OLD: [(&str, &str); 4] = [
        (".query.", ".to_q."),
        (".key.", ".to_k."),
        (".value.", ".to_v."),
        (".proj_attn.", ".to_out.0."),
    ];
    let key = key.strip_prefix("first_stage_model.").unwrap_or(key);
    let old = OLD
        .iter()
        .find(|(old, _)| key.contains(".attentions.") && key.contains(old));
    Some(old.map_or_else(|| key.to_owned(), |(old, new)| key.replace(old, new)))
}
