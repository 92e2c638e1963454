use std::{ops::ControlFlow, path::Path};

use burn::tensor::{DType, backend::Backend};
use i2vgen_checkpoint::Folder;
use i2vgen_vae::Tiling;

use crate::{
    Components, EncodedPrompt, Estimate, EstimateInput, Event, GenerateOptions, Generation,
    GpuMemory, Images, Latents, OutputType, PipelineError, Prompt, VaeTiling, Video,
    components::Source, conditioning, decode, estimate, generate,
};

/// Image and text to video (diffusers `I2VGenXLPipeline`).
#[derive(Clone, Debug)]
pub struct I2VGenXLPipeline<B: Backend> {
    source: Source<B>,
    device: B::Device,
}

impl<B: Backend> I2VGenXLPipeline<B> {
    /// Opens a diffusers folder, to run in f32. Weights are read stage by stage while a video is made.
    ///
    /// With the feature `hub` (on by default) `model` may also be a name like `ali-vilab/i2vgen-xl`; what is not in the Hugging
    /// Face cache yet is downloaded. For progress, variants and other choices call `i2vgen_hub::pull`, then
    /// [`Self::from_folder`].
    ///
    /// # Errors
    /// If the folder is incomplete or of another pipeline, or if the model cannot be had.
    pub fn from_pretrained(
        model: impl AsRef<Path>,
        device: &B::Device,
    ) -> Result<Self, PipelineError> {
        let model = model.as_ref();
        #[cfg(feature = "hub")]
        if let Some(id) = model.to_str().filter(|text| i2vgen_hub::is_model_id(text)) {
            let path = i2vgen_hub::pull(id, &Default::default(), &mut |_| {})?;
            return Self::from_folder(Folder::open(path)?, None, DType::F32, device);
        }
        Self::from_folder(Folder::open(model)?, None, DType::F32, device)
    }

    /// Opens a folder with a choice of variant (`fp16`) and dtype.
    ///
    /// # Errors
    /// As [`Self::from_pretrained`].
    pub fn from_folder(
        folder: Folder,
        variant: Option<&str>,
        dtype: DType,
        device: &B::Device,
    ) -> Result<Self, PipelineError> {
        Ok(Self {
            source: Source::open(folder, variant, dtype)?,
            device: device.clone(),
        })
    }

    /// Joins components that the caller has.
    pub fn from_components(components: Components<B>, device: &B::Device) -> Self {
        Self {
            source: Source::Loaded(Box::new(components)),
            device: device.clone(),
        }
    }

    /// Writes a diffusers folder with weights in `dtype`.
    ///
    /// # Errors
    /// If there is a model already, or it cannot be written.
    pub fn save_pretrained(
        &self,
        path: impl AsRef<Path>,
        dtype: DType,
    ) -> Result<(), PipelineError> {
        self.source.save(path.as_ref(), dtype, &self.device)
    }

    /// Reads all weights now and keeps them, for many videos in a row. Without this each stage reads what it needs and frees
    /// it, so that a run needs the memory of its largest stage only.
    ///
    /// # Errors
    /// If a component cannot be loaded.
    pub fn keep_resident(self) -> Result<Self, PipelineError> {
        let components = self.source.load(&self.device)?;
        Ok(Self::from_components(components, &self.device))
    }

    /// The parts, loaded, to use alone or in another pipeline. Clones share their weights.
    ///
    /// # Errors
    /// If a component cannot be loaded.
    pub fn into_components(self) -> Result<Components<B>, PipelineError> {
        self.source.load(&self.device)
    }

    /// Makes the videos of pictures and prompts: one picture for each prompt, or one for all.
    ///
    /// # Errors
    /// If an option is out of range, counts do not match, or a component cannot be loaded.
    pub fn generate<'a>(
        &self,
        images: impl Into<Images<'a>>,
        prompt: impl Into<Prompt>,
        options: &GenerateOptions,
    ) -> Result<Video, PipelineError> {
        let options = GenerateOptions {
            output_type: OutputType::Video,
            ..options.clone()
        };
        let generation = self.run(images, prompt, &options, |_| ControlFlow::Continue(()))?;
        Ok(generation
            .video
            .expect("a run for a video ends with a video"))
    }

    /// As [`Self::generate`], reporting everything about the run. `callback` hears of every stage and step, and stops the
    /// run by returning `Break`.
    ///
    /// # Errors
    /// As [`Self::generate`], and `Cancelled` if the callback said so.
    pub fn run<'a>(
        &self,
        images: impl Into<Images<'a>>,
        prompt: impl Into<Prompt>,
        options: &GenerateOptions,
        callback: impl FnMut(Event<'_, B>) -> ControlFlow<()>,
    ) -> Result<Generation, PipelineError> {
        generate::run(
            &self.source,
            images.into(),
            &prompt.into(),
            options,
            callback,
            &self.device,
        )
    }

    /// Embeddings of prompts and of the options' negative prompts, for [`Prompt::Embeds`].
    ///
    /// # Errors
    /// If counts do not match or the text encoder cannot be loaded.
    pub fn encode_prompt(
        &self,
        prompt: impl Into<Prompt>,
        options: &GenerateOptions,
    ) -> Result<EncodedPrompt<B>, PipelineError> {
        let prompt = prompt.into();
        generate::check_prompts(&self.source, &prompt, options)?;
        conditioning::encode_prompt(&self.source, &prompt, options, &self.device)
    }

    /// What a run for so many prompts will need, predicted from the configs; `resident` as after [`Self::keep_resident`].
    /// Nothing for a pipeline whose components the caller holds.
    ///
    /// # Errors
    /// If an option is out of range or a config cannot be read.
    pub fn estimate(
        &self,
        prompts: usize,
        resident: bool,
        options: &GenerateOptions,
    ) -> Result<Option<Estimate>, PipelineError> {
        let Source::Folder { folder, dtype, .. } = &self.source else {
            return Ok(None);
        };
        let vae = self.source.vae_config()?;
        options.check(prompts, vae.scale_factor(), vae.latent_channels)?;
        let scheduler = self.source.prepared_scheduler(options)?;
        let input = EstimateInput {
            height: options.height,
            width: options.width,
            num_frames: options.num_frames,
            videos: prompts * options.num_videos_per_prompt,
            guided: options.guided(),
            split_guidance: options.split_guidance,
            stream_unet: options.stream_unet,
            model_evaluations: scheduler.timesteps().len(),
            cache_interval: options.cache_interval,
            decode_chunk_size: match options.output_type {
                OutputType::Video => options.decode_chunk_size,
                OutputType::Latent => 0,
            },
            clip_skip: options.clip_skip.unwrap_or(0),
            bytes_per_value: dtype.size(),
            bytes_per_weight: self.source.bytes_per_weight(),
            resident,
            tiling: options.vae_tiling.map(|tiling| match tiling {
                VaeTiling::Config => Tiling::of(&vae),
                VaeTiling::Tiles(tiling) => tiling,
            }),
            slicing: options.vae_slicing,
            gpu: GpuMemory::of::<B>(&self.device, *dtype),
        };
        Ok(Some(estimate(folder, &input)?))
    }

    /// Frames of latents, with the options' frame rate, chunk size and VAE settings.
    ///
    /// # Errors
    /// If the latents are none of this model or the VAE cannot be loaded.
    pub fn decode_latents(
        &self,
        latents: &Latents,
        options: &GenerateOptions,
    ) -> Result<Video, PipelineError> {
        latents.check("latents")?;
        let fail = |name, problem: &str| PipelineError::Option {
            name,
            problem: problem.to_owned(),
        };
        if latents.values.is_empty() {
            return Err(fail("latents", "there are none"));
        }
        if options.decode_chunk_size == 0 {
            return Err(fail("decode_chunk_size", "0 must be at least 1"));
        }
        let vae = self.source.vae(options, &self.device)?;
        let x = latents.to_tensor(DType::F32, &self.device);
        let (chunk, fps) = (options.decode_chunk_size, options.target_fps);
        decode::decode(&vae, x, chunk, fps, |_, _| Ok(()))
    }
}
