//! The two commands that make one output.

use burn::tensor::backend::Backend;
use i2vgen_pipeline::GenerateOptions;

use crate::{
    args::{DemoArgs, GenerateArgs},
    continuation,
    device::{self, Task, dispatch, misfits},
    failure::Failure,
    job::Job,
    layers,
    model::Model,
    session::Session,
    settings::{EMBEDDED, Settings},
};

pub(crate) fn demo(args: DemoArgs) -> Result<(), Failure> {
    let embedded = || EMBEDDED.into();
    let settings = Settings {
        model: Some(embedded()),
        device: Some(args.device),
        image: Some(vec![args.image.unwrap_or_else(embedded)]),
        prompt: Some(vec![args.prompt]),
        height: Some(64),
        width: Some(64),
        num_frames: Some(8),
        target_fps: Some(8.0),
        num_inference_steps: Some(args.num_inference_steps),
        guidance_scale: Some(args.guidance_scale),
        seed: Some(vec![args.seed]),
        decode_chunk_size: Some(8),
        refine: args.refine,
        refine_strength: args.refine_strength,
        output: Some(args.output),
        ..Settings::default()
    };
    make(settings, args.quiet)
}

pub(crate) fn generate(args: GenerateArgs) -> Result<(), Failure> {
    let mut settings = args.settings;
    if let Some(path) = &args.from {
        let record = layers::sidecar("--from", path)?;
        settings = settings.merged_over(record.arguments.without_outputs());
    }
    let config = layers::config(args.config.as_deref())?;
    let settings = with_defaults(settings, &config)?;
    match args.estimate {
        true => estimate(&settings, args.quiet),
        false => make(settings, args.quiet),
    }
}

/// What a continued video and the config file say below the other layers.
pub(crate) fn with_defaults(
    mut settings: Settings,
    config: &Settings,
) -> Result<Settings, Failure> {
    if let Some(path) = settings.continue_from.clone() {
        settings = settings.merged_over(continuation::defaults(&path)?);
    }
    Ok(settings.merged_over(config.clone()))
}

fn make(settings: Settings, quiet: bool) -> Result<(), Failure> {
    // First what costs nothing: the model may have to be downloaded.
    let job = Job::new(settings)?;
    let settings = &job.settings;
    let model = Model::open(settings, settings.keep_resident.unwrap_or(false), quiet)?;
    let device = model.device.clone();
    dispatch(&device, One { model, job, quiet })
}

struct One {
    model: Model,
    job: Job,
    quiet: bool,
}

impl Task for One {
    fn run<B: Backend>(self, device: &B::Device) -> Result<(), Failure> {
        Session::<B>::open(&self.model, self.quiet, device)?.run(&self.job)
    }
}

fn estimate(settings: &Settings, quiet: bool) -> Result<(), Failure> {
    let prompts = match settings.prompt_embeds {
        Some(_) => settings.prompt()?.count(),
        None => settings.prompt.as_ref().map_or(1, Vec::len),
    };
    let options = settings.options()?;
    let model = Model::open(settings, settings.keep_resident.unwrap_or(false), quiet)?;
    let device = model.device.clone();
    let task = Estimation {
        model,
        prompts,
        options,
        refines: settings.refine.is_some(),
    };
    dispatch(&device, task)
}

struct Estimation {
    model: Model,
    prompts: usize,
    options: GenerateOptions,
    refines: bool,
}

impl Task for Estimation {
    fn run<B: Backend>(self, device: &B::Device) -> Result<(), Failure> {
        let pipeline = self.model.pipeline::<B>(device)?;
        let resident = self.model.keep_resident;
        if let Some(estimate) = pipeline.estimate(self.prompts, resident, &self.options)? {
            println!("{estimate}");
            if self.refines {
                println!("the second stage (--refine) comes on top and is not estimated");
            }
            let memory = device::memory(&self.model.device);
            for problem in misfits::<B>(&estimate, memory, device) {
                println!("{problem}");
            }
        }
        Ok(())
    }
}
