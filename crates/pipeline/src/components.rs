use std::path::Path;

use burn::tensor::{DType, backend::Backend};
use i2vgen_checkpoint::{Folder, ModelIndex, Stem, Weights};
use i2vgen_clip_encoders::{
    CLIPImageProcessor, CLIPTextConfig, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection,
};
use i2vgen_kernels::takes_half_weights;
use i2vgen_schedulers::Scheduler;
use i2vgen_unet3d::{I2VGenXLUNet, I2VGenXLUNetConfig};
use i2vgen_vae::{AutoencoderKL, AutoencoderKLConfig};

use crate::{Compat, FreeU, GenerateOptions, PipelineError, VaeTiling};

/// All parts of a pipeline, loaded.
#[derive(Clone, Debug)]
pub struct Components<B: Backend> {
    /// Text to token ids.
    pub tokenizer: CLIPTokenizer,
    /// Token ids to context.
    pub text_encoder: CLIPTextModel<B>,
    /// Normalisation of the picture for the image encoder.
    pub feature_extractor: CLIPImageProcessor,
    /// Picture to embedding.
    pub image_encoder: CLIPVisionModelWithProjection<B>,
    /// The denoiser.
    pub unet: I2VGenXLUNet<B>,
    /// Picture to latents and back.
    pub vae: AutoencoderKL<B>,
    /// The sampler.
    pub scheduler: Box<dyn Scheduler<B>>,
    /// Whether the UNet's weights double the concatenated image features themselves (`convert --concat-gain fold`), so that
    /// [`Compat::VGen`](crate::Compat::VGen) must not.
    pub folded_concat_gain: bool,
}

/// Where a stage gets its component from.
#[derive(Clone, Debug)]
pub(crate) enum Source<B: Backend> {
    /// Loaded when needed, dropped after.
    Folder {
        folder: Folder,
        variant: Option<String>,
        dtype: DType,
    },
    /// Held by the caller. A clone of a module shares its weights.
    Loaded(Box<Components<B>>),
}

/// The folders of a pipeline and how their weights are called; those without weights have no stem.
const PARTS: [(&str, Option<Stem>); 7] = [
    ("tokenizer", None),
    ("feature_extractor", None),
    ("scheduler", None),
    ("text_encoder", Some(Stem::Transformers)),
    ("image_encoder", Some(Stem::Transformers)),
    ("unet", Some(Stem::Diffusers)),
    ("vae", Some(Stem::Diffusers)),
];

impl<B: Backend> Source<B> {
    /// Looks at every part without reading weights, so that a run does not fail late for a missing file.
    pub(crate) fn open(
        folder: Folder,
        variant: Option<&str>,
        dtype: DType,
    ) -> Result<Self, PipelineError> {
        let index = ModelIndex::read(&folder)?;
        if index.class_name != "I2VGenXLPipeline" {
            return Err(PipelineError::WrongPipeline {
                path: folder.display(""),
                found: index.class_name,
            });
        }
        for (name, stem) in PARTS {
            let part = folder.subfolder(name)?;
            if let Some(stem) = stem {
                Weights::open(&part, stem, variant)?;
            }
        }
        Ok(Self::Folder {
            folder,
            variant: variant.map(str::to_owned),
            dtype,
        })
    }

    /// What the components compute in.
    pub(crate) fn dtype(&self) -> DType {
        match self {
            Self::Loaded(c) => c.unet.dtype(),
            Self::Folder { dtype, .. } => *dtype,
        }
    }

    /// Reads every component that is not held yet.
    pub(crate) fn load(&self, device: &B::Device) -> Result<Components<B>, PipelineError> {
        Ok(match self {
            Self::Loaded(c) => (**c).clone(),
            Self::Folder { .. } => Components {
                tokenizer: self.tokenizer()?,
                text_encoder: self.stored_text_encoder(0, device)?,
                feature_extractor: self.feature_extractor()?,
                image_encoder: self.image_encoder(device)?,
                unet: self.stored_unet(false, device)?,
                vae: self.stored_vae(device)?,
                scheduler: self.scheduler()?,
                folded_concat_gain: self.has_folded_gain()?,
            },
        })
    }

    /// Whether the weights themselves double the concatenated image features (`convert --concat-gain fold`), so that the
    /// pipeline must not do it again.
    pub(crate) fn has_folded_gain(&self) -> Result<bool, PipelineError> {
        Ok(match self {
            Self::Loaded(c) => c.folded_concat_gain,
            Self::Folder { folder, .. } if folder.contains("i2vgen.json") => {
                let manifest: serde_json::Value = folder.read_json("i2vgen.json")?;
                manifest["concat_gain"] == "fold"
            }
            Self::Folder { .. } => false,
        })
    }

    pub(crate) fn tokenizer(&self) -> Result<CLIPTokenizer, PipelineError> {
        Ok(match self {
            Self::Loaded(c) => c.tokenizer.clone(),
            Self::Folder { folder, .. } => {
                CLIPTokenizer::from_folder(&folder.subfolder("tokenizer")?)?
            }
        })
    }

    pub(crate) fn text_config(&self) -> Result<CLIPTextConfig, PipelineError> {
        Ok(match self {
            Self::Loaded(c) => CLIPTextConfig {
                num_hidden_layers: c.text_encoder.total_layers(),
                ..c.text_encoder.config.clone()
            },
            Self::Folder { folder, .. } => {
                let folder = folder.subfolder("text_encoder")?;
                folder.read_json("config.json")?
            }
        })
    }

    /// Without the last `clip_skip` layers, where it is loaded for the purpose, and with the run's LoRAs.
    pub(crate) fn text_encoder(
        &self,
        options: &GenerateOptions,
        device: &B::Device,
    ) -> Result<CLIPTextModel<B>, PipelineError> {
        let skip = options.clip_skip.unwrap_or(0);
        let stored = self.stored_text_encoder(skip, device)?;
        Ok(options.loras.merge_text_encoder(stored)?.0)
    }

    fn stored_text_encoder(
        &self,
        skip: usize,
        device: &B::Device,
    ) -> Result<CLIPTextModel<B>, PipelineError> {
        Ok(match self {
            Self::Loaded(c) => c.text_encoder.clone(),
            Self::Folder {
                folder,
                variant,
                dtype,
            } => {
                let folder = folder.subfolder("text_encoder")?;
                CLIPTextModel::from_folder(&folder, variant.as_deref(), *dtype, skip, device)?
            }
        })
    }

    pub(crate) fn feature_extractor(&self) -> Result<CLIPImageProcessor, PipelineError> {
        Ok(match self {
            Self::Loaded(c) => c.feature_extractor.clone(),
            Self::Folder { folder, .. } => {
                CLIPImageProcessor::from_folder(&folder.subfolder("feature_extractor")?)?
            }
        })
    }

    pub(crate) fn image_encoder(
        &self,
        device: &B::Device,
    ) -> Result<CLIPVisionModelWithProjection<B>, PipelineError> {
        Ok(match self {
            Self::Loaded(c) => c.image_encoder.clone(),
            Self::Folder {
                folder,
                variant,
                dtype,
            } => CLIPVisionModelWithProjection::from_folder(
                &folder.subfolder("image_encoder")?,
                variant.as_deref(),
                *dtype,
                device,
            )?,
        })
    }

    /// Bytes of the UNet's large weights in memory.
    pub(crate) fn bytes_per_weight(&self) -> usize {
        let Self::Folder {
            folder, variant, ..
        } = self
        else {
            return self.dtype().size();
        };
        let half = || {
            let folder = folder.subfolder("unet").ok()?;
            let weights = Weights::open(&folder, Stem::Diffusers, variant.as_deref()).ok()?;
            Some(weights.is_half())
        };
        match takes_half_weights::<B>() && half() == Some(true) {
            true => 2,
            false => self.dtype().size(),
        }
    }

    pub(crate) fn unet_config(&self) -> Result<I2VGenXLUNetConfig, PipelineError> {
        Ok(match self {
            Self::Loaded(c) => c.unet.config.clone(),
            Self::Folder { folder, .. } => folder.subfolder("unet")?.read_json("config.json")?,
        })
    }

    pub(crate) fn vae_config(&self) -> Result<AutoencoderKLConfig, PipelineError> {
        Ok(match self {
            Self::Loaded(c) => c.vae.config.clone(),
            Self::Folder { folder, .. } => folder.subfolder("vae")?.read_json("config.json")?,
        })
    }

    /// With the run's tiles and slices.
    pub(crate) fn vae(
        &self,
        options: &GenerateOptions,
        device: &B::Device,
    ) -> Result<AutoencoderKL<B>, PipelineError> {
        with_tiles(
            self.stored_vae(device)?,
            options.vae_tiling,
            options.vae_slicing,
        )
    }

    fn stored_vae(&self, device: &B::Device) -> Result<AutoencoderKL<B>, PipelineError> {
        Ok(match self {
            Self::Loaded(c) => c.vae.clone(),
            Self::Folder {
                folder,
                variant,
                dtype,
            } => {
                let folder = folder.subfolder("vae")?;
                AutoencoderKL::from_folder(&folder, variant.as_deref(), *dtype, device)?
            }
        })
    }

    /// With the run's LoRAs and FreeU.
    pub(crate) fn unet(
        &self,
        options: &GenerateOptions,
        device: &B::Device,
    ) -> Result<I2VGenXLUNet<B>, PipelineError> {
        let (mut unet, _) = options
            .loras
            .merge_unet(self.stored_unet(options.stream_unet, device)?)?;
        if let Some(FreeU { s1, s2, b1, b2 }) = options.freeu {
            unet.enable_freeu(s1, s2, b1, b2)?;
        }
        Ok(unet)
    }

    fn stored_unet(
        &self,
        streamed: bool,
        device: &B::Device,
    ) -> Result<I2VGenXLUNet<B>, PipelineError> {
        Ok(match self {
            Self::Loaded(c) => c.unet.clone(),
            Self::Folder {
                folder,
                variant,
                dtype,
            } => {
                let folder = folder.subfolder("unet")?;
                let (variant, dtype) = (variant.as_deref(), *dtype);
                match streamed {
                    true => I2VGenXLUNet::from_folder_streamed(&folder, variant, dtype, device)?,
                    false => I2VGenXLUNet::from_folder(&folder, variant, dtype, device)?,
                }
            }
        })
    }

    pub(crate) fn scheduler(&self) -> Result<Box<dyn Scheduler<B>>, PipelineError> {
        Ok(match self {
            Self::Loaded(c) => c.scheduler.clone(),
            Self::Folder { folder, .. } => {
                i2vgen_schedulers::from_folder(&folder.subfolder("scheduler")?)?
            }
        })
    }

    /// The run's sampler, ready to start.
    pub(crate) fn prepared_scheduler(
        &self,
        options: &GenerateOptions,
    ) -> Result<Box<dyn Scheduler<B>>, PipelineError> {
        let own = self.scheduler()?;
        let config = own.to_config();
        let name = options.scheduler.as_deref().unwrap_or(own.class_name());
        let mut changes = options.scheduler_options;
        changes.diffusers_betas |= options.compat == Compat::Diffusers;
        let mut scheduler = i2vgen_schedulers::from_config_with(&config, name, &changes)?;
        if options.compat == Compat::VGen {
            scheduler.set_alpha_to_one(false);
        }
        scheduler.set_timesteps(options.num_inference_steps)?;
        Ok(scheduler)
    }

    /// Writes a diffusers folder, one component after the other.
    pub(crate) fn save(
        &self,
        path: &Path,
        dtype: DType,
        device: &B::Device,
    ) -> Result<(), PipelineError> {
        let fail = |problem: String| PipelineError::Output {
            path: path.display().to_string(),
            problem,
        };
        if path.join("model_index.json").exists() {
            return Err(fail("already holds a model; choose another folder".into()));
        }
        for (name, _) in PARTS {
            std::fs::create_dir_all(path.join(name))
                .map_err(|e| fail(format!("cannot be made: {e}")))?;
        }
        self.tokenizer()?.save_pretrained(path.join("tokenizer"))?;
        self.feature_extractor()?
            .save_pretrained(path.join("feature_extractor"))?;
        let scheduler = self.scheduler()?;
        i2vgen_schedulers::save_pretrained(scheduler.as_ref(), path.join("scheduler"))?;
        self.stored_text_encoder(0, device)?
            .save_pretrained(path.join("text_encoder"), dtype)?;
        self.image_encoder(device)?
            .save_pretrained(path.join("image_encoder"), dtype)?;
        self.stored_unet(false, device)?
            .save_pretrained(path.join("unet"), dtype)?;
        self.stored_vae(device)?
            .save_pretrained(path.join("vae"), dtype)?;
        let index = serde_json::json!({
            "_class_name": "I2VGenXLPipeline",
            "feature_extractor": ["transformers", "CLIPImageProcessor"],
            "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
            "scheduler": ["diffusers", scheduler.class_name()],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "I2VGenXLUNet"],
            "vae": ["diffusers", "AutoencoderKL"],
        });
        Ok(i2vgen_checkpoint::write_json(
            &path.join("model_index.json"),
            &index,
        )?)
    }
}

/// The VAE as the options say.
pub(crate) fn with_tiles<B: Backend>(
    mut vae: AutoencoderKL<B>,
    tiling: Option<VaeTiling>,
    slicing: bool,
) -> Result<AutoencoderKL<B>, PipelineError> {
    match tiling {
        None => {}
        Some(VaeTiling::Config) => vae.enable_tiling(None)?,
        Some(VaeTiling::Tiles(tiling)) => vae.enable_tiling(Some(tiling))?,
    }
    if slicing {
        vae.enable_slicing();
    }
    Ok(vae)
}
