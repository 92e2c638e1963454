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

use burn::tensor::{DType, backend::Backend};
use i2vgen_pipeline::{Event, Generation, I2VGenXLPipeline, PipelineError, Video};
use image::RgbImage;

use crate::{
    continuation::Source, failure::Failure, job::Job, model::Model, progress::Progress, sidecar,
    staging::Staging, tensors,
};

/// A model on a device, for one job or many.
pub(crate) struct Session<'a, B: Backend> {
    model: &'a Model,
    pipeline: I2VGenXLPipeline<B>,
    stop: Arc<AtomicBool>,
    quiet: bool,
    /// Of the weights; reading them takes a while, so once must do.
    hashes: OnceCell<BTreeMap<String, String>>,
}

impl<'a, B: Backend> Session<'a, B> {
    /// Opens the model and begins to watch for Ctrl-C; once in a process.
    pub(crate) fn open(model: &'a Model, quiet: bool, device: &B::Device) -> Result<Self, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        // A second Ctrl-C does not wait for the step to end. No output is open while steps run.
        let handler = ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
        });
        handler.map_err(|e| Failure::Input(format!("cannot watch for Ctrl-C: {e}")))?;
        let (folder, variant) = (model.folder.clone(), model.variant.as_deref());
        let pipeline = I2VGenXLPipeline::<B>::from_folder(folder, variant, DType::F32, device)?;
        let pipeline = match model.keep_resident {
            true => {
                Progress::new(quiet).stage("loading the model");
                pipeline.keep_resident()?
            }
            false => pipeline,
        };
        Ok(Self {
            model,
            pipeline,
            stop,
            quiet,
            hashes: OnceCell::new(),
        })
    }

    /// Makes the videos of a job and writes them.
    pub(crate) fn run(&self, job: &Job) -> Result<(), Failure> {
        let mut progress = Progress::new(self.quiet);
        let images = self.images(job, &mut progress)?;
        let prompt = job.prompt.clone();
        let generation =
            self.pipeline
                .run(&images, prompt, &job.options, |event: Event<'_, B>| {
                    progress.tell(&event);
                    if let Event::Preview { done, video } = &event {
                        preview(&job.output, *done, video, &progress);
                    }
                    match self.stopped() {
                        true => ControlFlow::Break(()),
                        false => ControlFlow::Continue(()),
                    }
                })?;
        progress.finish();
        if generation.cut_tokens > 0 && !self.quiet {
            eprintln!(
                "warning: the prompt is too long; its last {} tokens were cut",
                generation.cut_tokens
            );
        }
        if !generation.unknown_lora_keys.is_empty() && !self.quiet {
            eprintln!(
                "warning: {} tensors of the LoRA files fit nowhere in this model and were left out",
                generation.unknown_lora_keys.len()
            );
        }
        let written = self.write(job, &generation)?;
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

    /// Whether Ctrl-C was pressed.
    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn images(&self, job: &Job, progress: &mut Progress) -> Result<Vec<RgbImage>, PipelineError> {
        let image = |source: &Source| match source {
            Source::Picture(image) => Ok(image.clone()),
            Source::Latents(latents) => {
                progress.stage("VAE decoder");
                let video = self.pipeline.decode_latents(latents, &job.options)?;
                Ok(video.frame(0, 0))
            }
        };
        job.pictures.iter().map(image).collect()
    }

    fn write(&self, job: &Job, generation: &Generation) -> Result<Vec<String>, PipelineError> {
        let mut staging = Staging::default();
        staging.add(&job.output, |path| match &generation.video {
            Some(video) => video.save(path),
            None => {
                generation.latents.save(path)?;
                Ok(vec![path.to_owned()])
            }
        })?;
        let written = staging.outputs();
        let record = sidecar::record(self.model, job, generation, &written, self.hashes()?);
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

/// `OUTPUT.step-NNNN.png`. That it could not be written is no reason to stop.
fn preview(output: &Path, done: usize, video: &Video, progress: &Progress) {
    let mut name = output.as_os_str().to_owned();
    name.push(format!(".step-{done:04}.png"));
    if let Err(e) = video.save(Path::new(&name)) {
        progress.say(&format!("warning: no preview: {e}"));
    }
}
