//! The two commands that make a video.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use burn::tensor::{DType, backend::Backend};
use i2vgen_checkpoint::Folder;
use i2vgen_pipeline::{
    Container, GenerateOptions, I2VGenXLPipeline, Latents, OutputType, decode_image, open_image,
};
use image::RgbImage;

use crate::{
    args::{DemoArgs, DtypeArg, GenerateArgs},
    failure::Failure,
    progress::Progress,
    sidecar,
};

/// Everything that a run needs, whatever the backend.
pub(crate) struct Job {
    pub(crate) folder: Folder,
    pub(crate) variant: Option<String>,
    pub(crate) image: RgbImage,
    pub(crate) image_name: String,
    pub(crate) prompt: String,
    pub(crate) options: GenerateOptions,
    pub(crate) output: PathBuf,
    pub(crate) device: String,
    pub(crate) quiet: bool,
}

pub(crate) fn demo(args: &DemoArgs) -> Result<(), Failure> {
    check_output(&args.output, OutputType::Video, 1, args.image.as_slice())?;
    let (image, image_name) = match &args.image {
        Some(path) => (open_image(path)?, path.display().to_string()),
        None => (
            decode_image(i2vgen_demo_model::IMAGE, "embedded picture")?,
            "embedded".to_owned(),
        ),
    };
    let options = GenerateOptions {
        height: 64,
        width: 64,
        num_frames: 8,
        target_fps: 8.0,
        num_inference_steps: args.num_inference_steps,
        guidance_scale: args.guidance_scale,
        seed: Some(args.seed),
        decode_chunk_size: 8,
        ..Default::default()
    };
    dispatch(Job {
        folder: i2vgen_demo_model::folder(),
        variant: None,
        image,
        image_name,
        prompt: args.prompt.clone(),
        options,
        output: args.output.clone(),
        device: args.common.device.clone(),
        quiet: args.common.quiet,
    })
}

pub(crate) fn generate(args: &GenerateArgs) -> Result<(), Failure> {
    if args.dtype != DtypeArg::F32 {
        return Err(Failure::Input(
            "--dtype: this version computes in f32 only; weights of any precision are converted while loading"
                .into(),
        ));
    }
    let mut options = args.options();
    let mut inputs = vec![args.image.clone()];
    inputs.extend(args.latents.clone());
    let videos = args.num_videos_per_prompt;
    check_output(&args.output, options.output_type, videos, &inputs)?;
    let folder = Folder::open(&args.model).map_err(i2vgen_pipeline::PipelineError::from)?;
    if let Some(scheduler) = &args.scheduler
        && !scheduler.eq_ignore_ascii_case("ddim")
    {
        return Err(Failure::Input(format!(
            "--scheduler: '{scheduler}' is not supported; supported is ddim"
        )));
    }
    options.latents = args.latents.as_deref().map(Latents::read).transpose()?;
    dispatch(Job {
        folder,
        variant: args.variant.clone(),
        image: open_image(&args.image)?,
        image_name: args.image.display().to_string(),
        prompt: args.prompt.clone(),
        options,
        output: args.output.clone(),
        device: args.common.device.clone(),
        quiet: args.common.quiet,
    })
}

/// Refuses outputs that cannot be written, before any work, and those that would replace an input.
fn check_output(
    output: &Path,
    kind: OutputType,
    videos: usize,
    inputs: &[PathBuf],
) -> Result<(), Failure> {
    let container = Container::of(output)?;
    if kind == OutputType::Latent && container != Container::Safetensors {
        return Err(Failure::Input(format!(
            "--output: latents can only be written as .safetensors, not '{}'",
            output.display()
        )));
    }
    let same = |input: &PathBuf| match (input.canonicalize(), output.canonicalize()) {
        (Ok(input), Ok(output)) => input == output,
        _ => false,
    };
    if let Some(input) = inputs.iter().find(|input| same(input)) {
        return Err(Failure::Input(format!(
            "--output: '{}' is also an input; choose another name",
            input.display()
        )));
    }
    Ok(container.check(output, videos)?)
}

/// The only place that knows which backends were compiled in.
fn dispatch(job: Job) -> Result<(), Failure> {
    let (name, number) = job.device.split_once(':').unwrap_or((&job.device, "0"));
    let index: usize = number.parse().map_err(|_| {
        Failure::Input(format!(
            "--device: '{}' must be a name with an optional number, like cuda:0",
            job.device
        ))
    })?;
    match name {
        #[cfg(feature = "cpu")]
        "cpu" if index == 0 => execute::<burn::backend::Flex>(&job, &Default::default()),
        #[cfg(feature = "cuda")]
        "cuda" => {
            let device = burn::backend::cuda::CudaDevice::new(index);
            execute::<burn::backend::Cuda>(&job, &device)
        }
        #[cfg(feature = "wgpu")]
        "wgpu" => {
            use burn::backend::wgpu::WgpuDevice;
            let device = match job.device.contains(':') {
                true => WgpuDevice::DiscreteGpu(index),
                false => WgpuDevice::DefaultDevice,
            };
            execute::<burn::backend::Wgpu>(&job, &device)
        }
        "cpu" => Err(Failure::Input(
            "--device: there is only one cpu; use cpu".into(),
        )),
        #[cfg(not(feature = "cuda"))]
        "cuda" => Err(not_built_in(name)),
        #[cfg(not(feature = "wgpu"))]
        "wgpu" => Err(not_built_in(name)),
        _ => Err(Failure::Input(format!(
            "--device: '{name}' is unknown; use cpu, cuda or wgpu"
        ))),
    }
}

#[cfg(not(all(feature = "cuda", feature = "wgpu")))]
fn not_built_in(name: &str) -> Failure {
    Failure::Input(format!(
        "--device: this program was built without {name}; build it with: cargo build --release --features {name}"
    ))
}

fn execute<B: Backend>(job: &Job, device: &B::Device) -> Result<(), Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    // A second Ctrl-C does not wait for the step to end. No output is open while steps run.
    let handler = ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    });
    handler.map_err(|e| Failure::Input(format!("cannot watch for Ctrl-C: {e}")))?;

    let folder = job.folder.clone();
    let variant = job.variant.as_deref();
    let pipeline = I2VGenXLPipeline::<B>::from_folder(folder, variant, DType::F32, device)?;
    let mut progress = Progress::new(job.quiet);
    let generation = pipeline.run(&job.image, job.prompt.as_str(), &job.options, |event| {
        progress.tell(&event);
        match stop.load(Ordering::SeqCst) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })?;
    progress.finish();
    if generation.cut_tokens > 0 && !job.quiet {
        eprintln!(
            "warning: the prompt is too long; its last {} tokens were cut",
            generation.cut_tokens
        );
    }
    let written = match &generation.video {
        Some(video) => video.save(&job.output)?,
        None => {
            generation.latents.save(&job.output)?;
            vec![job.output.clone()]
        }
    };
    sidecar::write(job, &generation, &written)?;
    if !job.quiet {
        let seconds: f64 = generation.timings.iter().map(|(_, s)| s).sum();
        let names: Vec<_> = written.iter().map(|p| p.display().to_string()).collect();
        eprintln!(
            "wrote {} in {seconds:.1} s (seed {})",
            names.join(", "),
            generation.seeds[0]
        );
    }
    Ok(())
}
