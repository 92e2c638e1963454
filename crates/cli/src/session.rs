use std::{
    cell::OnceCell,
    collections::BTreeMap,
    ops::ControlFlow,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use burn::tensor::backend::Backend;
use i2vgen_kernels::device_failed;
use i2vgen_pipeline::{
    Event, FrameProblem, GenerateOptions, Generation, I2VGenXLPipeline, OutputType, PipelineError,
    Video,
};
use image::RgbImage;

use crate::{
    continuation::Source,
    device::{self, misfits},
    failure::Failure,
    job::Job,
    model::Model,
    progress::Progress,
    sidecar::{self, Record},
    staging::Staging,
    tensors,
};

/// A model on a device, for one job or many.
pub(crate) struct Session<'a, B: Backend> {
    pub(crate) model: &'a Model,
    pub(crate) device: B::Device,
    pipeline: I2VGenXLPipeline<B>,
    /// With all weights, once they are loaded.
    resident: OnceCell<I2VGenXLPipeline<B>>,
    /// What may be taken, before any weights are loaded.
    memory: Option<u64>,
    stop: Arc<AtomicBool>,
    quiet: bool,
    /// Of the weights; reading them takes a while, so once must do.
    hashes: OnceCell<BTreeMap<String, String>>,
}

impl<'a, B: Backend> Session<'a, B> {
    /// Opens the model and begins to watch for Ctrl-C; once in a process.
    pub(crate) fn open(model: &'a Model, quiet: bool, device: &B::Device) -> Result<Self, Failure> {
        let stop = stop_flag()?;
        Ok(Self {
            model,
            device: device.clone(),
            pipeline: model.pipeline(device)?,
            resident: OnceCell::new(),
            memory: device::memory(&model.device),
            stop,
            quiet,
            hashes: OnceCell::new(),
        })
    }

    /// Makes the videos of a job and writes them.
    pub(crate) fn run(&self, job: &Job) -> Result<(), Failure> {
        let mut progress = Progress::new(self.quiet);
        self.check_memory(job)?;
        let pipeline = self.loaded(&mut progress)?;
        let images = images(pipeline, job, &mut progress)?;
        let prompt = job.prompt.clone();
        let mut callback = |event: Event<'_, B>| {
            progress.tell(&event);
            if let Event::Preview { done, video } = &event {
                preview(&job.output, *done, video, &progress);
            }
            match self.stopped() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let generation = match &job.second_stage {
            None => pipeline.run(&images, prompt, &job.options, &mut callback)?,
            Some(second) => {
                let needs_frames = second.needs_frames::<B>(self.model, &self.device)?;
                let first = GenerateOptions {
                    output_type: match needs_frames {
                        true => OutputType::Video,
                        false => OutputType::Latent,
                    },
                    ..job.options.clone()
                };
                let mut generation = pipeline.run(&images, prompt, &first, &mut callback)?;
                second.run(self, pipeline, &images, job, &mut generation, &mut callback)?;
                generation
            }
        };
        progress.finish();
        if !generation.unknown_lora_keys.is_empty() && !self.quiet {
            eprintln!(
                "warning: {} tensors of the LoRA files fit nowhere in this model and were left out",
                generation.unknown_lora_keys.len()
            );
        }
        if !self.quiet {
            warn_of_frames(&generation.frame_problems, generation.cut_tokens);
        }
        let written = self.write(job, &generation, &images)?;
        if !self.quiet {
            let seconds: f64 = generation.timings.iter().map(|(_, s)| s).sum();
            let seeds: Vec<_> = generation.seeds.iter().map(u64::to_string).collect();
            eprintln!(
                "wrote {} in {seconds:.1} s (seed {})",
                written.join(", "),
                seeds.join(", ")
            );
        }
        Ok(())
    }

    /// Whether Ctrl-C was pressed, or the device has failed.
    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst) || device_failed()
    }

    /// Refuses what would not fit in memory or in the device's buffers, unless the user insists, and options that are out
    /// of range, before weights are loaded.
    fn check_memory(&self, job: &Job) -> Result<(), Failure> {
        let prompts = job.prompt.count();
        let estimate = self
            .pipeline
            .estimate(prompts, self.model.keep_resident, &job.options)?;
        let Some(estimate) = estimate else {
            return Ok(());
        };
        let allowed = job.settings.allow_oversize == Some(true);
        for problem in misfits::<B>(&estimate, self.memory, &self.device) {
            if !allowed {
                let problem = format!("{problem}, or insist with --allow-oversize");
                return Err(match self.model.device.clone() {
                    cpu if cpu == "cpu" => Failure::Input(problem),
                    device => Failure::TooLarge { device, problem },
                });
            }
            if !self.quiet {
                eprintln!("warning: {problem}");
            }
        }
        Ok(())
    }

    fn loaded(&self, progress: &mut Progress) -> Result<&I2VGenXLPipeline<B>, PipelineError> {
        if !self.model.keep_resident {
            return Ok(&self.pipeline);
        }
        if let Some(resident) = self.resident.get() {
            return Ok(resident);
        }
        progress.stage("loading the model");
        let resident = self.pipeline.clone().keep_resident()?;
        Ok(self.resident.get_or_init(|| resident))
    }

    fn write(
        &self,
        job: &Job,
        generation: &Generation,
        images: &[RgbImage],
    ) -> Result<Vec<String>, PipelineError> {
        let arguments = sidecar::arguments(self.model, job, generation);
        let metadata = sidecar::metadata(&arguments);
        let save_options = job.settings.save_options(Some(metadata));
        let mut staging = Staging::default();
        staging.add(&job.output, |path| match &generation.video {
            Some(video) => video.save_with(path, &save_options),
            None => {
                generation.latents.save(path)?;
                Ok(vec![path.to_owned()])
            }
        })?;
        let written = staging.outputs();
        let peak_memory = sidecar::peak_memory();
        let record = Record {
            model: self.model,
            job,
            generation,
            images,
            outputs: &written,
            hashes: self.hashes()?,
            peak_memory,
        };
        let record = record.to_json(&arguments);
        type Write = fn(&Path, &Generation) -> Result<(), PipelineError>;
        let also: [(_, Write); 2] = [
            (&job.settings.save_prompt_embeds, tensors::write_embeds),
            (&job.settings.save_latents, tensors::write_latents),
        ];
        for (target, write) in also {
            let Some(target) = target else { continue };
            staging.add(target, |path| {
                write(path, generation)?;
                Ok(vec![path.to_owned()])
            })?;
        }
        staging.commit(&job.sidecar(), &record)?;
        let names = written.iter().map(|(path, _)| path.display().to_string());
        Ok(names.collect())
    }

    fn hashes(&self) -> Result<&BTreeMap<String, String>, PipelineError> {
        if let Some(hashes) = self.hashes.get() {
            return Ok(hashes);
        }
        let hashes = sidecar::hashes(&self.model.folder)?;
        Ok(self.hashes.get_or_init(|| hashes))
    }
}

/// Becomes true with Ctrl-C; can be had once in a process. A second Ctrl-C does not wait for the step to end. No output is open
/// while steps run.
pub(crate) fn stop_flag() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let handler = ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    });
    handler.map_err(|e| Failure::Input(format!("cannot watch for Ctrl-C: {e}")))?;
    Ok(stop)
}

/// What may be wrong with a video that was made.
pub(crate) fn warn_of_frames(problems: &[FrameProblem], cut_tokens: usize) {
    if cut_tokens > 0 {
        eprintln!("warning: the prompt is too long; its last {cut_tokens} tokens were cut");
    }
    for problem in problems {
        eprintln!("warning: {problem}");
    }
}

fn images<B: Backend>(
    pipeline: &I2VGenXLPipeline<B>,
    job: &Job,
    progress: &mut Progress,
) -> Result<Vec<RgbImage>, PipelineError> {
    let image = |source: &Source| match source {
        Source::Picture(image) => Ok(image.clone()),
        Source::Latents(latents) => {
            progress.stage("VAE decoder");
            let video = pipeline.decode_latents(latents, &job.options)?;
            Ok(video.frame(0, 0))
        }
    };
    job.pictures.iter().map(image).collect()
}

/// `OUTPUT.step-NNNN.png`. That it could not be written is no reason to stop.
fn preview(output: &Path, done: usize, video: &Video, progress: &Progress) {
    let mut name = output.as_os_str().to_owned();
    name.push(format!(".step-{done:04}.png"));
    if let Err(e) = video.save(Path::new(&name)) {
        progress.say(&format!("warning: no preview: {e}"));
    }
}
