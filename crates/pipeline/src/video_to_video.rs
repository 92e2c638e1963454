//! The second stage: a video and a text become a better video (diffusers `VideoToVideoSDPipeline`; reference `refine.md`).

mod options;
mod run;
mod source;
mod windows;

use std::{ops::ControlFlow, path::Path};

use burn::tensor::{DType, backend::Backend};
use i2vgen_checkpoint::Folder;

pub(crate) use options::check_strength;
pub use options::{VideoToVideoOptions, Windows};
pub use run::Refinement;
pub use source::VideoToVideoComponents;

use crate::{Event, Latents, PipelineError, Prompt, Video};
use source::Source;

/// What is to be refined.
#[derive(Clone, Copy, Debug)]
pub enum VideoInput<'a> {
    /// Frames: one video for each prompt, or one for all.
    Frames(&'a Video),
    /// Latents as a first stage leaves them, for a second stage of the same VAE.
    Latents(&'a Latents),
}

impl<'a> From<&'a Video> for VideoInput<'a> {
    fn from(video: &'a Video) -> Self {
        Self::Frames(video)
    }
}

impl<'a> From<&'a Latents> for VideoInput<'a> {
    fn from(latents: &'a Latents) -> Self {
        Self::Latents(latents)
    }
}

/// Video and text to video (diffusers `VideoToVideoSDPipeline`), for zeroscope and its like and for MS-Vid2Vid-XL.
#[derive(Clone, Debug)]
pub struct VideoToVideoPipeline<B: Backend> {
    source: Source<B>,
    device: B::Device,
}

impl<B: Backend> VideoToVideoPipeline<B> {
    /// Opens a diffusers folder, to run in f32. Weights are read stage by stage.
    ///
    /// # Errors
    /// If the folder is incomplete or holds no second stage.
    pub fn from_pretrained(
        path: impl AsRef<Path>,
        device: &B::Device,
    ) -> Result<Self, PipelineError> {
        Self::from_folder(Folder::open(path)?, None, None, DType::F32, device)
    }

    /// Opens a folder with a choice of variant (`fp16`) and dtype. What the folder does not have besides its UNet (a converted
    /// MS-Vid2Vid-XL has nothing else, and may be the UNet's own folder) is taken from `base`, for example the model of the
    /// first stage: tokenizer, text encoder and VAE are the same.
    ///
    /// # Errors
    /// If a part is in neither folder, or the folder holds no second stage.
    pub fn from_folder(
        folder: Folder,
        base: Option<&Folder>,
        variant: Option<&str>,
        dtype: DType,
        device: &B::Device,
    ) -> Result<Self, PipelineError> {
        Ok(Self {
            source: Source::open(folder, base, variant, dtype)?,
            device: device.clone(),
        })
    }

    /// Joins components that the caller has.
    pub fn from_components(components: VideoToVideoComponents<B>, device: &B::Device) -> Self {
        Self {
            source: Source::Loaded(Box::new(components)),
            device: device.clone(),
        }
    }

    /// Whether its UNet is MS-Vid2Vid-XL's, for which [`VideoToVideoOptions::ms_vid2vid`] are the right options.
    ///
    /// # Errors
    /// If its config cannot be read.
    pub fn is_ms_vid2vid(&self) -> Result<bool, PipelineError> {
        Ok(self.source.unet_config()?.upsample_crop_rows > 0)
    }

    /// Pixels for a latent, in each direction.
    ///
    /// # Errors
    /// If the VAE's config cannot be read.
    pub fn scale_factor(&self) -> Result<usize, PipelineError> {
        Ok(self.source.vae_config()?.scale_factor())
    }

    /// Makes a video of a video and a prompt.
    ///
    /// # Errors
    /// If an option is out of range, the video has a size that the model cannot take, or a component cannot be loaded.
    pub fn refine<'a>(
        &self,
        video: impl Into<VideoInput<'a>>,
        prompt: impl Into<Prompt>,
        options: &VideoToVideoOptions,
    ) -> Result<Video, PipelineError> {
        let options = VideoToVideoOptions {
            output_type: crate::OutputType::Video,
            ..options.clone()
        };
        let refinement = self.run(video, prompt, &options, |_| ControlFlow::Continue(()))?;
        Ok(refinement
            .video
            .expect("a run for a video ends with a video"))
    }

    /// As [`Self::refine`], reporting everything about the run. `callback` hears of every stage and step, and stops the run by
    /// returning `Break`.
    ///
    /// # Errors
    /// As [`Self::refine`], and `Cancelled` if the callback said so.
    pub fn run<'a>(
        &self,
        video: impl Into<VideoInput<'a>>,
        prompt: impl Into<Prompt>,
        options: &VideoToVideoOptions,
        callback: impl FnMut(Event<'_, B>) -> ControlFlow<()>,
    ) -> Result<Refinement, PipelineError> {
        run::run(
            &self.source,
            video.into(),
            &prompt.into(),
            options,
            callback,
            &self.device,
        )
    }
}
