use std::{ops::ControlFlow, path::Path};

use burn::tensor::{DType, backend::Backend};
use i2vgen_checkpoint::Folder;
use image::RgbImage;

use crate::{
    Components, Event, GenerateOptions, Generation, OutputType, PipelineError, Video,
    components::Source, generate,
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
    /// # Errors
    /// If the folder is incomplete or of another pipeline.
    pub fn from_pretrained(
        path: impl AsRef<Path>,
        device: &B::Device,
    ) -> Result<Self, PipelineError> {
        Self::from_folder(Folder::open(path)?, None, DType::F32, device)
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

    /// Makes the videos of one picture and prompt.
    ///
    /// # Errors
    /// If an option is out of range or a component cannot be loaded.
    pub fn generate(
        &self,
        image: &RgbImage,
        prompt: &str,
        options: &GenerateOptions,
    ) -> Result<Video, PipelineError> {
        let options = GenerateOptions {
            output_type: OutputType::Video,
            ..options.clone()
        };
        let generation = self.run(image, prompt, &options, |_| ControlFlow::Continue(()))?;
        Ok(generation
            .video
            .expect("a run for a video ends with a video"))
    }

    /// As [`Self::generate`], reporting everything about the run. `callback` hears of every stage and step, and stops the
    /// run by returning `Break`.
    ///
    /// # Errors
    /// As [`Self::generate`], and `Cancelled` if the callback said so.
    pub fn run(
        &self,
        image: &RgbImage,
        prompt: &str,
        options: &GenerateOptions,
        callback: impl FnMut(Event<'_, B>) -> ControlFlow<()>,
    ) -> Result<Generation, PipelineError> {
        generate::run(&self.source, image, prompt, options, callback, &self.device)
    }
}
