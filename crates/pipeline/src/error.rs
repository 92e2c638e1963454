use i2vgen_checkpoint::CheckpointError;
use i2vgen_clip_encoders::CLIPError;
use i2vgen_schedulers::SchedulerError;
use i2vgen_unet3d::UNetError;
use i2vgen_vae::VaeError;
use i2vgen_weights_converter::ConvertError;

/// What can go wrong while making a video.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// The model folder or its weights.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The CLIP encoders or the tokenizer.
    #[error(transparent)]
    Clip(#[from] CLIPError),
    /// The autoencoder.
    #[error(transparent)]
    Vae(#[from] VaeError),
    /// The denoiser.
    #[error(transparent)]
    UNet(#[from] UNetError),
    /// The scheduler.
    #[error(transparent)]
    Scheduler(#[from] SchedulerError),
    /// A LoRA file.
    #[error(transparent)]
    Lora(#[from] ConvertError),
    /// Getting a model by its name.
    #[cfg(feature = "hub")]
    #[error(transparent)]
    Hub(#[from] i2vgen_hub::HubError),
    /// A folder of another pipeline.
    #[error(
        "'{path}' holds a {found}, not an I2VGenXLPipeline; give the folder of an I2VGen-XL model"
    )]
    WrongPipeline {
        /// The folder.
        path: String,
        /// Its class.
        found: String,
    },
    /// A folder without a second stage.
    #[error(
        "'{path}' holds {found}; a second stage has a UNet3DConditionModel (MS-Vid2Vid-XL, zeroscope)"
    )]
    NoSecondStage {
        /// The folder.
        path: String,
        /// What is there instead, or missing.
        found: String,
    },
    /// An option out of range.
    #[error("{name}: {problem}")]
    Option {
        /// diffusers' name of it.
        name: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A picture that cannot be read.
    #[error("image '{path}' {problem}")]
    Image {
        /// Where it was read from.
        path: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// An output that cannot be written.
    #[error("output '{path}' {problem}")]
    Output {
        /// Where it was to go.
        path: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A video that cannot be read.
    #[error("video '{path}' {problem}")]
    Video {
        /// Where it was read from.
        path: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A stage that has computed infinities or NaN.
    #[error(
        "the {stage} gave values that are not finite (video {video}, frame {frame}); nothing was written; compute in f32, or look for damaged weights with: i2vgen inspect --deep"
    )]
    NotFinite {
        /// Where it was seen.
        stage: &'static str,
        /// The first video with such a value.
        video: usize,
        /// The first frame of it.
        frame: usize,
    },
    /// The callback has stopped the run.
    #[error("cancelled; nothing was written")]
    Cancelled,
}
