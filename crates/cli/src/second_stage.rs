//! `--refine`: a second stage behind the first, in one command.

use std::ops::ControlFlow;

use burn::tensor::backend::Backend;
use i2vgen_checkpoint::Folder;
use i2vgen_pipeline::{
    Event, Generation, I2VGenXLPipeline, PipelineError, Prompt, StartFrames, StartVideo,
    Vid2VidSolver, VideoInput, VideoToVideoOptions, VideoToVideoPipeline,
};

use crate::{
    failure::Failure, job::Job, model::Model, refine::SELF, session::Session, settings::Settings,
};

/// How much a model changes of its own video, unless it is said.
const SELF_STRENGTH: f64 = 0.4;

/// What `--refine` says.
pub(crate) struct SecondStage {
    /// None is the first stage's own model.
    folder: Option<Folder>,
    prompt: Option<Prompt>,
    strength: Option<f64>,
    steps: Option<usize>,
}

impl SecondStage {
    pub(crate) fn new(settings: &Settings) -> Result<Option<Self>, Failure> {
        let Some(name) = &settings.refine else {
            let lonely = [
                ("--refine-prompt", settings.refine_prompt.is_some()),
                ("--refine-strength", settings.refine_strength.is_some()),
                ("--refine-steps", settings.refine_steps.is_some()),
            ];
            return match lonely.iter().find(|(_, given)| *given) {
                Some((flag, _)) => Err(Failure::Input(format!(
                    "{flag}: is for --refine, which is missing"
                ))),
                None => Ok(None),
            };
        };
        let folder = match name.as_os_str() == SELF {
            true => None,
            false => Some(Folder::open(name).map_err(PipelineError::from)?),
        };
        if let Some(strength) = settings.refine_strength
            && !(strength > 0.0 && strength <= 1.0)
        {
            return Err(Failure::Input(format!(
                "--refine-strength: {strength} must be above 0 and at most 1, for example 0.4"
            )));
        }
        if settings.refine_steps == Some(0) {
            return Err(Failure::Input(
                "--refine-steps: 0 must be at least 1".into(),
            ));
        }
        Ok(Some(Self {
            folder,
            prompt: settings.refine_prompt.as_deref().map(Prompt::from),
            strength: settings.refine_strength,
            steps: settings.refine_steps,
        }))
    }

    fn pipeline<B: Backend>(
        &self,
        folder: &Folder,
        model: &Model,
        device: &B::Device,
    ) -> Result<VideoToVideoPipeline<B>, PipelineError> {
        let (variant, dtype) = (model.variant.as_deref(), model.dtype.into());
        let base = Some(&model.folder);
        VideoToVideoPipeline::from_folder(folder.clone(), base, variant, dtype, device)
    }

    /// Whether the first stage must decode. Latents are handed over where the second stage takes that size.
    pub(crate) fn needs_frames<B: Backend>(
        &self,
        model: &Model,
        device: &B::Device,
    ) -> Result<bool, PipelineError> {
        match &self.folder {
            None => Ok(false),
            Some(folder) => self.pipeline::<B>(folder, model, device)?.is_ms_vid2vid(),
        }
    }

    /// Puts the second stage's video and latents in the place of the first's.
    pub(crate) fn run<B: Backend>(
        &self,
        session: &Session<'_, B>,
        pipeline: &I2VGenXLPipeline<B>,
        images: &[image::RgbImage],
        job: &Job,
        generation: &mut Generation,
        mut callback: impl FnMut(Event<'_, B>) -> ControlFlow<()>,
    ) -> Result<(), Failure> {
        let prompt = self.prompt.clone().unwrap_or_else(|| job.prompt.clone());
        // Noise of its own: the first stage's has become the video.
        let seeds: Vec<u64> = generation.seeds.iter().map(|s| s.wrapping_add(1)).collect();
        let (video, latents, problems, timings) = match &self.folder {
            None => {
                let mut options = job.options.clone();
                options.start = Some(StartVideo {
                    frames: StartFrames::Latents(generation.latents.clone()),
                    strength: self.strength.unwrap_or(SELF_STRENGTH),
                });
                options.num_inference_steps = self.steps.unwrap_or(options.num_inference_steps);
                (options.latents, options.preview_every) = (None, None);
                (options.seed, options.seeds) = (None, seeds);
                let second = pipeline.run(images, prompt, &options, callback)?;
                (
                    second.video,
                    second.latents,
                    second.frame_problems,
                    second.timings,
                )
            }
            Some(folder) => {
                let second = self.pipeline::<B>(folder, session.model, &session.device)?;
                let preset = match second.is_ms_vid2vid()? {
                    true => VideoToVideoOptions::ms_vid2vid(Vid2VidSolver::default()),
                    false => VideoToVideoOptions::default(),
                };
                let options = VideoToVideoOptions {
                    strength: self.strength.unwrap_or(preset.strength),
                    num_inference_steps: self.steps.unwrap_or(preset.num_inference_steps),
                    seeds,
                    split_guidance: job.options.split_guidance,
                    stream_unet: job.options.stream_unet,
                    vae_slicing: job.options.vae_slicing,
                    vae_tiling: job.options.vae_tiling,
                    decode_chunk_size: job.options.decode_chunk_size,
                    fps: Some(job.options.target_fps),
                    output_type: job.options.output_type,
                    ..preset
                };
                let input = match &generation.video {
                    Some(video) => VideoInput::Frames(video),
                    None => VideoInput::Latents(&generation.latents),
                };
                let refined = second.run(input, prompt, &options, &mut callback)?;
                (
                    refined.video,
                    refined.latents,
                    refined.frame_problems,
                    refined.timings,
                )
            }
        };
        generation.video = video;
        generation.latents = latents;
        generation.frame_problems = problems;
        generation
            .timings
            .push(("refine", timings.iter().map(|(_, seconds)| seconds).sum()));
        Ok(())
    }
}
