//! One run, stage by stage; what a stage has loaded is gone before the next begins.

use std::{
    ops::ControlFlow,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use burn::tensor::{DType, Tensor, TensorData, backend::Backend};
use i2vgen_schedulers::StepArgs;
use image::RgbImage;
use torch_rng::Generator;

use crate::{
    Compat, GenerateOptions, Latents, OutputType, PipelineError, Video, components::Source, inputs,
};

/// What a run reports while it works.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a, B: Backend> {
    /// A stage begins.
    Stage(&'static str),
    /// A denoising step has been done.
    Step {
        /// Steps done.
        done: usize,
        /// Steps in all.
        total: usize,
        /// Where in the noise schedule it started.
        timestep: f64,
        /// `[videos, channels, frames, h, w]` after it.
        latents: &'a Tensor<B, 5>,
    },
    /// Frames have been decoded.
    Decoded {
        /// Frames done.
        done: usize,
        /// Frames in all.
        total: usize,
    },
}

/// The outcome of a run.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The decoded frames, unless only latents were asked for.
    pub video: Option<Video>,
    /// Latents as the scheduler left them.
    pub latents: Latents,
    /// The seed that was used.
    pub seed: u64,
    /// Tokens of the prompt that the text encoder has no room for.
    pub cut_tokens: usize,
    /// Seconds per stage, in order.
    pub timings: Vec<(&'static str, f64)>,
}

pub(crate) fn run<B: Backend>(
    source: &Source<B>,
    image: &RgbImage,
    prompt: &str,
    options: &GenerateOptions,
    mut callback: impl FnMut(Event<'_, B>) -> ControlFlow<()>,
    device: &B::Device,
) -> Result<Generation, PipelineError> {
    let vae = source.vae_config()?;
    let (factor, channels) = (vae.scale_factor(), vae.latent_channels);
    options.check(factor, channels)?;
    check_clip_skip(source, options)?;
    if image.width() == 0 || image.height() == 0 {
        return Err(PipelineError::Image {
            path: String::new(),
            problem: "has no pixels".into(),
        });
    }
    let mut scheduler = source.scheduler()?;
    if options.compat == Compat::VGen {
        scheduler.set_alpha_to_one(false);
    }
    scheduler.set_timesteps(options.num_inference_steps)?;

    let seed = options.seed.unwrap_or_else(seed_from_clock);
    let mut generator = Generator::new(seed);
    let mut timings = Vec::new();
    let mut clock = Instant::now();
    let mut lap = |name| {
        timings.push((name, clock.elapsed().as_secs_f64()));
        clock = Instant::now();
    };
    let mut tell = |event: Event<'_, B>| match callback(event) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(PipelineError::Cancelled),
    };

    tell(Event::Stage("text encoder"))?;
    let (text, cut_tokens) = inputs::encode_prompt(source, prompt, options, device)?;
    let dtype = text.dtype();
    lap("text_encoder");

    tell(Event::Stage("image encoder"))?;
    let embeddings = inputs::encode_image(source, image, options, dtype, device)?;
    lap("image_encoder");

    tell(Event::Stage("VAE encoder"))?;
    let image_latents =
        inputs::encode_image_latents(source, image, options, dtype, &mut generator, device)?;
    lap("vae_encode");

    let shape = options.latents_shape(factor, channels);
    let [rows, _, frames, h, w] = shape;
    let noise: Tensor<B, 5> = match &options.latents {
        Some(given) => {
            let data = TensorData::new(given.values.clone(), shape);
            Tensor::<B, 5>::from_data(data, (device, DType::F32)).cast(dtype)
        }
        None => inputs::normal(&mut generator, shape, dtype, device),
    };
    // The scheduler sees every frame as a sample of its own, as in the reference.
    let frame_major = |x: Tensor<B, 5>| {
        let x: Tensor<B, 5> = x.permute([0, 2, 1, 3, 4]);
        x.reshape([rows * frames, channels, h, w])
    };
    let video_major = |x: Tensor<B, 4>| {
        let x: Tensor<B, 5> = x.reshape([rows, frames, channels, h, w]);
        x.permute([0, 2, 1, 3, 4])
    };
    let mut x = frame_major(noise * scheduler.init_noise_sigma());

    tell(Event::Stage("UNet"))?;
    let unet = source.unet(device)?;
    lap("unet_load");
    let gain = match source.has_folded_gain()? {
        true => 1.0,
        false => options.compat.concat_gain(),
    };
    let conditioning = unet.prepare(text, embeddings, image_latents, options.target_fps, gain)?;
    lap("unet_prepare");

    let timesteps = scheduler.timesteps().to_vec();
    let mut draw =
        |like: &Tensor<B, 4>| inputs::normal(&mut generator, like.dims(), like.dtype(), device);
    for (index, timestep) in timesteps.iter().enumerate() {
        let input = video_major(scheduler.scale_model_input(x.clone(), index)?);
        let prediction = if options.guided() {
            let both = Tensor::cat(vec![input.clone(), input], 0);
            let output = unet.forward(both, *timestep, &conditioning)?;
            let without = output.clone().narrow(0, 0, rows);
            let with = output.narrow(0, rows, rows);
            without.clone() + (with - without) * options.guidance_scale
        } else {
            unet.forward(input, *timestep, &conditioning)?
        };
        let args = StepArgs::with_noise(options.eta, &mut draw);
        x = scheduler.step(frame_major(prediction), index, x, args)?;
        tell(Event::Step {
            done: index + 1,
            total: timesteps.len(),
            timestep: *timestep,
            latents: &video_major(x.clone()),
        })?;
    }
    drop((unet, conditioning));
    let latents = Latents {
        values: to_host(video_major(x.clone())),
        shape,
    };
    lap("denoise");

    let video = match options.output_type {
        OutputType::Latent => None,
        OutputType::Video => {
            tell(Event::Stage("VAE decoder"))?;
            let vae = source.vae(device)?;
            let z = x * (1.0 / vae.config.scaling_factor);
            let total = rows * frames;
            let mut values = Vec::with_capacity(total * 3 * options.height * options.width);
            for start in (0..total).step_by(options.decode_chunk_size) {
                let count = options.decode_chunk_size.min(total - start);
                let pixels = vae.decode(z.clone().narrow(0, start, count))?;
                let pixels = to_host(pixels.permute([0, 2, 3, 1]));
                values.extend(pixels.iter().map(|v| (v * 0.5 + 0.5).clamp(0.0, 1.0)));
                tell(Event::Decoded {
                    done: start + count,
                    total,
                })?;
            }
            lap("vae_decode");
            Some(Video::new(
                values,
                [rows, frames, options.height, options.width],
                options.target_fps,
            )?)
        }
    };
    Ok(Generation {
        video,
        latents,
        seed,
        cut_tokens,
        timings,
    })
}

fn check_clip_skip<B: Backend>(
    source: &Source<B>,
    options: &GenerateOptions,
) -> Result<(), PipelineError> {
    let layers = source.text_layers()?;
    match options.clip_skip {
        Some(skip) if skip > layers => Err(PipelineError::Option {
            name: "clip_skip",
            problem: format!("{skip} is more than the text encoder's {layers} layers"),
        }),
        _ => Ok(()),
    }
}

fn to_host<B: Backend, const D: usize>(x: Tensor<B, D>) -> Vec<f32> {
    let data = x.cast(DType::F32).into_data();
    data.to_vec()
        .expect("the tensor was cast to f32 on the line before")
}

fn seed_from_clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |t| t.as_nanos() as u64 % (1 << 53))
}
