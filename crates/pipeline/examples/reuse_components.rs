//! Parts of the pipeline on their own: the VAE as an image codec, the text encoder as a feature extractor, one UNet in two
//! pipelines with different schedulers, and the UNet in a sampling loop of one's own.
//!
//! ```sh
//! cargo run --release -p i2vgen-pipeline --example reuse_components
//! ```
//!
//! runs on the embedded toy model and writes nothing. With a real model, open parts by their folder:
//! `AutoencoderKL::<Flex>::from_pretrained("models/i2vgen-xl/vae", &device)`.

use std::error::Error;

use burn::{
    backend::Flex,
    tensor::{DType, Distribution, Tensor},
};
use i2vgen_clip_encoders::{CropMode, vae_pixels};
use i2vgen_pipeline::{GenerateOptions, I2VGenXLPipeline, Prompt, decode_image};
use i2vgen_schedulers::{StepArgs, from_config};

type B = Flex; // or Cuda, Wgpu: the only line that changes

fn main() -> Result<(), Box<dyn Error>> {
    let device = Default::default();
    let image = decode_image(i2vgen_demo_model::IMAGE, "embedded")?;
    let folder = i2vgen_demo_model::folder();
    let parts =
        I2VGenXLPipeline::<B>::from_folder(folder, None, DType::F32, &device)?.into_components()?;

    // The VAE alone: a picture to latents and back.
    let pixels: Tensor<B, 4> = vae_pixels(&image, 64, 64, CropMode::Corrected, &device);
    let latents = parts.vae.encode(pixels.clone())?.mode();
    let again = parts.vae.decode(latents.clone())?;
    let error: f32 = (again - pixels).square().mean().into_scalar();
    println!(
        "VAE: latents {:?}, round trip {:.1} dB",
        latents.dims(),
        10.0 * (4.0 / error).log10()
    );

    // The text encoder alone: how alike two sentences are.
    let encode = |text: &str| -> Result<Tensor<B, 1>, Box<dyn Error>> {
        let ids = parts.tokenizer.encode(text)?.to_tensor(&device);
        let hidden = parts.text_encoder.forward(ids, Some(1))?;
        Ok(hidden.mean_dim(1).flatten(0, 2))
    };
    let (a, b) = (
        encode("a red circle moves left")?,
        encode("a blue star grows")?,
    );
    let norm = |x: &Tensor<B, 1>| x.clone().square().sum().sqrt();
    let cosine: f32 = ((a.clone() * b.clone()).sum() / (norm(&a) * norm(&b))).into_scalar();
    println!("text encoder: cosine of two sentences {cosine:.3}");

    // One UNet in two pipelines. Clones share the weights.
    let options = GenerateOptions {
        height: 64,
        width: 64,
        num_frames: 4,
        num_inference_steps: 6,
        guidance_scale: 2.5,
        seed: Some(0),
        ..Default::default()
    };
    for class in ["DDIMScheduler", "UniPCMultistepScheduler"] {
        let mut components = parts.clone();
        components.scheduler = from_config(&parts.scheduler.to_config(), class)?;
        let pipeline = I2VGenXLPipeline::from_components(components, &device);
        let video = pipeline.generate(&image, i2vgen_demo_model::PROMPT, &options)?;
        println!("{class}: {:?}", video.shape());
    }

    // The UNet in a loop of one's own, without guidance. What is constant is prepared once.
    let pipeline = I2VGenXLPipeline::from_components(parts.clone(), &device);
    let unguided = GenerateOptions {
        guidance_scale: 1.0,
        ..options
    };
    let text = pipeline.encode_prompt(Prompt::from(i2vgen_demo_model::PROMPT), &unguided)?;
    let clip = parts
        .feature_extractor
        .preprocess::<B>(&image, 64, CropMode::Corrected, &device);
    let embedding = parts.image_encoder.forward(clip)?.unsqueeze_dim::<3>(1);
    let [_, channels, h, w] = latents.dims();
    let first = (latents * parts.vae.config.scaling_factor).unsqueeze_dim::<5>(2);
    let frames = 4;
    let later = (1..frames).map(|f| first.full_like(f as f64 / (frames - 1) as f64));
    let image_latents = Tensor::cat(std::iter::once(first.clone()).chain(later).collect(), 2);
    let unet = &parts.unet;
    let conditioning = unet.prepare(text.prompt_embeds, embedding, image_latents, 8.0, 1.0)?;
    let mut scheduler = parts.scheduler.clone();
    scheduler.set_timesteps(6)?;
    let shape = [frames, channels, h, w];
    let mut x: Tensor<B, 4> = Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device);
    for (index, t) in scheduler.timesteps().to_vec().into_iter().enumerate() {
        let input = scheduler.scale_model_input(x.clone(), index)?;
        let input = input.unsqueeze::<5>().permute([0, 2, 1, 3, 4]);
        let output = unet.forward(input, t, &conditioning)?;
        let output = output.permute([0, 2, 1, 3, 4]).reshape(shape);
        x = scheduler.step(output, index, x, StepArgs::default())?;
    }
    let spread: f32 = x.var(0).mean().sqrt().into_scalar();
    println!("own loop: latents {shape:?}, deviation over frames {spread:.3}");
    Ok(())
}
