use burn::tensor::{DType, backend::Backend};
use i2vgen_checkpoint::{Folder, ModelIndex, Stem, Weights};
use i2vgen_clip_encoders::{CLIPTextConfig, CLIPTextModel, CLIPTokenizer};
use i2vgen_schedulers::{Scheduler, Vid2VidScheduler};
use i2vgen_unet3d::{UNet3DConditionModel, UNet3DConditionModelConfig};
use i2vgen_vae::{AutoencoderKL, AutoencoderKLConfig};
use serde::Deserialize;

use super::VideoToVideoOptions;
use crate::{Compat, FreeU, PipelineError, components::with_tiles};

/// All parts of a second stage, loaded.
#[derive(Clone, Debug)]
pub struct VideoToVideoComponents<B: Backend> {
    /// Text to token ids.
    pub tokenizer: CLIPTokenizer,
    /// Token ids to context.
    pub text_encoder: CLIPTextModel<B>,
    /// The denoiser.
    pub unet: UNet3DConditionModel<B>,
    /// Frames to latents and back.
    pub vae: AutoencoderKL<B>,
    /// The sampler, unless the options say MS-Vid2Vid-XL's own.
    pub scheduler: Option<Box<dyn Scheduler<B>>>,
}

/// Where a stage gets its component from.
#[derive(Clone, Debug)]
pub(super) enum Source<B: Backend> {
    /// Loaded when needed, dropped after.
    Folders(Box<Folders>),
    /// Held by the caller.
    Loaded(Box<VideoToVideoComponents<B>>),
}

#[derive(Clone, Debug)]
pub(super) struct Folders {
    unet: Folder,
    tokenizer: Folder,
    text_encoder: Folder,
    vae: Folder,
    scheduler: Option<Folder>,
    variant: Option<String>,
    dtype: DType,
}

#[derive(Deserialize)]
struct Class {
    #[serde(rename = "_class_name", default)]
    class: String,
}

impl<B: Backend> Source<B> {
    /// Looks at every part without reading weights.
    pub(super) fn open(
        folder: Folder,
        base: Option<&Folder>,
        variant: Option<&str>,
        dtype: DType,
    ) -> Result<Self, PipelineError> {
        let wrong = |found: String| PipelineError::NoSecondStage {
            path: folder.display(""),
            found,
        };
        if folder.contains("model_index.json") {
            let index = ModelIndex::read(&folder)?;
            if index.class_name == "I2VGenXLPipeline" {
                return Err(wrong(
                    "an I2VGenXLPipeline, which is a first stage; to refine with it say `self`"
                        .into(),
                ));
            }
        }
        let has = |name: &str| folder.contains(&format!("{name}/config.json"));
        let unet = match has("unet") {
            true => folder.subfolder("unet")?,
            false if folder.contains("config.json") => folder.clone(),
            false => return Err(wrong("neither unet/config.json nor config.json".into())),
        };
        let class: Class = unet.read_json("config.json")?;
        if class.class != "UNet3DConditionModel" {
            return Err(wrong(format!("a {}", class.class)));
        }
        let part = |name: &str, file: &str| {
            let file = format!("{name}/{file}");
            if folder.contains(&file) {
                return Ok(folder.subfolder(name)?);
            }
            match base {
                Some(base) if base.contains(&file) => Ok(base.subfolder(name)?),
                _ => Err(wrong(format!(
                    "no {name}; name a model that has it as the base"
                ))),
            }
        };
        let own = folder.contains("scheduler/scheduler_config.json");
        let folders = Folders {
            tokenizer: part("tokenizer", "tokenizer_config.json")
                .or_else(|_| part("tokenizer", "vocab.json"))?,
            text_encoder: part("text_encoder", "config.json")?,
            vae: part("vae", "config.json")?,
            scheduler: match own {
                true => Some(folder.subfolder("scheduler")?),
                false => None,
            },
            variant: variant.map(str::to_owned),
            dtype,
            unet,
        };
        for (part, stem) in [
            (&folders.unet, Stem::Diffusers),
            (&folders.vae, Stem::Diffusers),
            (&folders.text_encoder, Stem::Transformers),
        ] {
            Weights::open(part, stem, variant)?;
        }
        let source = Self::Folders(Box::new(folders));
        let (text, unet) = (source.text_config()?, source.unet_config()?);
        unet.check()?;
        if text.hidden_size != unet.cross_attention_dim {
            return Err(wrong(format!(
                "a UNet for text of width {}, but the text encoder gives {}; name the base that belongs to it",
                unet.cross_attention_dim, text.hidden_size
            )));
        }
        Ok(source)
    }

    pub(super) fn unet_config(&self) -> Result<UNet3DConditionModelConfig, PipelineError> {
        Ok(match self {
            Self::Loaded(c) => c.unet.config.clone(),
            Self::Folders(f) => f.unet.read_json("config.json")?,
        })
    }

    pub(super) fn vae_config(&self) -> Result<AutoencoderKLConfig, PipelineError> {
        Ok(match self {
            Self::Loaded(c) => c.vae.config.clone(),
            Self::Folders(f) => f.vae.read_json("config.json")?,
        })
    }

    pub(super) fn text_config(&self) -> Result<CLIPTextConfig, PipelineError> {
        Ok(match self {
            Self::Loaded(c) => CLIPTextConfig {
                num_hidden_layers: c.text_encoder.total_layers(),
                ..c.text_encoder.config.clone()
            },
            Self::Folders(f) => f.text_encoder.read_json("config.json")?,
        })
    }

    pub(super) fn tokenizer(&self) -> Result<CLIPTokenizer, PipelineError> {
        Ok(match self {
            Self::Loaded(c) => c.tokenizer.clone(),
            Self::Folders(f) => CLIPTokenizer::from_folder(&f.tokenizer)?,
        })
    }

    pub(super) fn text_encoder(
        &self,
        device: &B::Device,
    ) -> Result<CLIPTextModel<B>, PipelineError> {
        Ok(match self {
            Self::Loaded(c) => c.text_encoder.clone(),
            Self::Folders(f) => {
                let variant = f.variant.as_deref();
                CLIPTextModel::from_folder(&f.text_encoder, variant, f.dtype, 0, device)?
            }
        })
    }

    pub(super) fn vae(
        &self,
        options: &VideoToVideoOptions,
        device: &B::Device,
    ) -> Result<AutoencoderKL<B>, PipelineError> {
        let vae = match self {
            Self::Loaded(c) => c.vae.clone(),
            Self::Folders(f) => {
                AutoencoderKL::from_folder(&f.vae, f.variant.as_deref(), f.dtype, device)?
            }
        };
        with_tiles(vae, options.vae_tiling, options.vae_slicing)
    }

    pub(super) fn unet(
        &self,
        options: &VideoToVideoOptions,
        device: &B::Device,
    ) -> Result<UNet3DConditionModel<B>, PipelineError> {
        let mut unet = match self {
            Self::Loaded(c) => c.unet.clone(),
            Self::Folders(f) => {
                let (folder, variant) = (&f.unet, f.variant.as_deref());
                match options.stream_unet {
                    true => UNet3DConditionModel::from_folder_streamed(
                        folder, variant, f.dtype, device,
                    )?,
                    false => UNet3DConditionModel::from_folder(folder, variant, f.dtype, device)?,
                }
            }
        };
        if let Some(FreeU { s1, s2, b1, b2 }) = options.freeu {
            unet.enable_freeu(s1, s2, b1, b2)?;
        }
        Ok(unet)
    }

    /// The run's sampler, ready to start.
    pub(super) fn scheduler(
        &self,
        options: &VideoToVideoOptions,
    ) -> Result<Box<dyn Scheduler<B>>, PipelineError> {
        let mut scheduler: Box<dyn Scheduler<B>> = match options.vid2vid_solver {
            Some(solver) => Box::new(Vid2VidScheduler::new(solver)),
            None => {
                let own: Option<Box<dyn Scheduler<B>>> = match self {
                    Self::Loaded(c) => c.scheduler.clone(),
                    Self::Folders(f) => match &f.scheduler {
                        Some(folder) => Some(i2vgen_schedulers::from_folder(folder)?),
                        None => None,
                    },
                };
                let own = own.ok_or_else(|| PipelineError::Option {
                    name: "scheduler",
                    problem:
                        "the model has none; add a scheduler folder, or use MS-Vid2Vid-XL's solver"
                            .to_owned(),
                })?;
                let name = options.scheduler.as_deref().unwrap_or(own.class_name());
                let mut changes = options.scheduler_options;
                changes.diffusers_betas |= options.compat == Compat::Diffusers;
                i2vgen_schedulers::from_config_with(&own.to_config(), name, &changes)?
            }
        };
        scheduler.set_timesteps(options.num_inference_steps)?;
        Ok(scheduler)
    }
}
