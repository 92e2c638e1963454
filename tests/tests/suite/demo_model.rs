//! The demo model against tensors that diffusers 0.33.1 made from it (`goldens/demo/reference.json` says how).

use std::ops::ControlFlow;

use burn::tensor::{Tensor, TensorData};
use i2vgen_clip_encoders::{
    CLIPImageProcessor, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection, CropMode,
};
use i2vgen_pipeline::{
    Event, GenerateOptions, I2VGenXLPipeline, ImageLatents, Latents, decode_image,
};
use i2vgen_tests::{SLACK, TestBackend};
use i2vgen_unet3d::I2VGenXLUNet;
use i2vgen_vae::AutoencoderKL;
use safetensors::SafeTensors;

const REFERENCE: &[u8] = include_bytes!("../../goldens/demo/reference.safetensors");
const IMAGE: &[u8] = include_bytes!("../../goldens/demo/input_64.png");
const PROMPT: &str = "a red circle moves left";
type B = TestBackend;

fn golden(name: &str) -> (Vec<f32>, Vec<usize>) {
    let file = SafeTensors::deserialize(REFERENCE).expect("golden");
    let tensor = file.tensor(name).expect(name);
    let values = match tensor.dtype() {
        safetensors::Dtype::F32 => {
            let (chunks, _) = tensor.data().as_chunks::<4>();
            chunks.iter().map(|b| f32::from_le_bytes(*b)).collect()
        }
        safetensors::Dtype::I64 => {
            let (chunks, _) = tensor.data().as_chunks::<8>();
            chunks
                .iter()
                .map(|b| i64::from_le_bytes(*b) as f32)
                .collect()
        }
        other => panic!("{name} is {other:?}"),
    };
    (values, tensor.shape().to_vec())
}

fn tensor<const D: usize>(name: &str) -> Tensor<B, D> {
    let (values, shape) = golden(name);
    Tensor::from_data(TensorData::new(values, shape), &Default::default())
}

fn values<const D: usize>(x: Tensor<B, D>) -> Vec<f32> {
    x.into_data().to_vec().expect("f32")
}

/// Fails if any value is further off than `tolerance` times the largest expected value.
fn close(name: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{name}: length");
    let scale = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    let off = |i: usize| (found[i] - expected[i]).abs();
    let max = (0..found.len()).map(off).fold(0f32, f32::max);
    let mean = (0..found.len()).map(off).sum::<f32>() / found.len() as f32;
    println!("{name}: max-abs {max:.2e}, mean-abs {mean:.2e}, scale {scale:.2e}");
    let bad = (0..found.len()).find(|i| {
        let within = off(*i) <= tolerance * SLACK * scale;
        !within
    });
    if let Some(i) = bad {
        panic!(
            "{name}: max-abs {max:e}, mean-abs {mean:e} of scale {scale:e}; first at {i}: {} is not {}",
            found[i], expected[i]
        );
    }
}

#[test]
fn text_encoder() {
    let folder = i2vgen_demo_model::folder();
    let device = Default::default();
    let tokenizer = CLIPTokenizer::from_folder(&folder.subfolder("tokenizer").unwrap()).unwrap();
    let part = folder.subfolder("text_encoder").unwrap();
    let encoder =
        CLIPTextModel::<B>::from_folder(&part, None, burn::tensor::DType::F32, 1, &device).unwrap();
    for (prompt, ids, embeds) in [
        (PROMPT, "input_ids", "prompt_embeds"),
        ("", "negative_input_ids", "negative_prompt_embeds"),
    ] {
        let encoding = tokenizer.encode(prompt).unwrap();
        let found: Vec<f32> = encoding.ids.iter().map(|id| *id as f32).collect();
        assert_eq!(found, golden(ids).0);
        let found = encoder
            .forward(encoding.to_tensor(&device), Some(1))
            .unwrap();
        close(embeds, &values(found), &golden(embeds).0, 1e-5);
    }
}

#[test]
fn image_encoder() {
    let folder = i2vgen_demo_model::folder();
    let device = Default::default();
    let image = decode_image(IMAGE, "input").unwrap();
    let part = folder.subfolder("feature_extractor").unwrap();
    let processor = CLIPImageProcessor::from_folder(&part).unwrap();
    let pixels = processor.preprocess::<B>(&image, 64, CropMode::Reference, &device);
    assert_eq!(values(pixels.clone()), golden("clip_pixel_values").0);
    let part = folder.subfolder("image_encoder").unwrap();
    let encoder = CLIPVisionModelWithProjection::<B>::from_folder(
        &part,
        None,
        burn::tensor::DType::F32,
        &device,
    )
    .unwrap();
    let found = encoder.forward(pixels).unwrap();
    close(
        "image_embeds",
        &values(found),
        &golden("image_embeds").0,
        1e-5,
    );
}

#[test]
fn vae() {
    let folder = i2vgen_demo_model::folder();
    let device = Default::default();
    let part = folder.subfolder("vae").unwrap();
    let vae =
        AutoencoderKL::<B>::from_folder(&part, None, burn::tensor::DType::F32, &device).unwrap();
    let posterior = vae.encode(tensor("vae_input")).unwrap();
    let expected = golden("posterior_mean").0;
    close("posterior_mean", &values(posterior.mode()), &expected, 1e-5);
    let expected = golden("posterior_logvar").0;
    close(
        "posterior_logvar",
        &values(posterior.logvar.clone()),
        &expected,
        1e-5,
    );
    let latents: Tensor<B, 5> = tensor("final_latents");
    let latents = latents.permute([0, 2, 1, 3, 4]).reshape([8, 4, 16, 16]);
    let frames = vae.decode(latents / vae.config.scaling_factor).unwrap();
    close(
        "decoded_frames",
        &values(frames),
        &golden("decoded_frames").0,
        1e-5,
    );
}

#[test]
fn unet() {
    let folder = i2vgen_demo_model::folder();
    let device = Default::default();
    let part = folder.subfolder("unet").unwrap();
    let unet =
        I2VGenXLUNet::<B>::from_folder(&part, None, burn::tensor::DType::F32, &device).unwrap();
    let text: Tensor<B, 3> = Tensor::cat(
        vec![tensor("negative_prompt_embeds"), tensor("prompt_embeds")],
        0,
    );
    let image: Tensor<B, 3> = tensor::<2>("image_embeds").unsqueeze_dim(1);
    let image = Tensor::cat(vec![image.zeros_like(), image], 0);
    let image_latents = tensor::<5>("image_latents").repeat_dim(0, 2);
    let conditioning = unet.prepare(text, image, image_latents, 8.0, 1.0).unwrap();
    let latents = tensor::<5>("initial_latents").repeat_dim(0, 2);
    let timestep = f64::from(golden("timesteps").0[0]);
    let found = unet.forward(latents, timestep, &conditioning).unwrap();
    let expected = golden("unet_output_first_step").0;
    close("unet_output_first_step", &values(found), &expected, 1e-4);
}

#[test]
fn whole_pipeline() {
    let device = Default::default();
    let folder = i2vgen_demo_model::folder();
    let dtype = burn::tensor::DType::F32;
    let pipeline = I2VGenXLPipeline::<B>::from_folder(folder, None, dtype, &device).unwrap();
    let image = decode_image(IMAGE, "input").unwrap();
    let (start, shape) = golden("initial_latents");
    let options = GenerateOptions {
        height: 64,
        width: 64,
        num_frames: 8,
        target_fps: 8.0,
        num_inference_steps: 10,
        guidance_scale: 5.0,
        latents: Some(Latents {
            values: start,
            shape: shape.try_into().unwrap(),
        }),
        image_latents: ImageLatents::Mode,
        decode_chunk_size: 3,
        ..Default::default()
    };
    let expected_steps = golden("latents_per_step").0;
    let per_step = expected_steps.len() / 10;
    let generation = pipeline
        .run(&image, PROMPT, &options, |event| {
            if let Event::Step { done, latents, .. } = event {
                let expected = &expected_steps[(done - 1) * per_step..done * per_step];
                let name = format!("latents after step {done}");
                close(&name, &values(latents.clone()), expected, 1e-3);
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    let video = generation.video.unwrap();
    let decoded = golden("decoded_frames").0;
    // [frame, channel, pixel] in −1..1 to [frame, pixel, channel] in 0..1
    let pixels = 64 * 64;
    let expected = (0..8 * pixels * 3).map(|i| {
        let (frame, pixel, channel) = (i / (pixels * 3), i / 3 % pixels, i % 3);
        (decoded[(frame * 3 + channel) * pixels + pixel] * 0.5 + 0.5).clamp(0.0, 1.0)
    });
    let error: f64 = expected
        .zip(video.values())
        .map(|(a, b)| f64::from(a - b).powi(2))
        .sum::<f64>()
        / video.values().len() as f64;
    let psnr = -10.0 * error.log10();
    println!("frames: {psnr:.1} dB");
    assert!(psnr >= 60.0, "frames differ: {psnr:.1} dB");
}

#[test]
fn seed_gives_torchs_start_noise() {
    // reference.json: initial latents are torch.randn of the seed, which is our generator's first draw with the mean.
    let device = Default::default();
    let folder = i2vgen_demo_model::folder();
    let dtype = burn::tensor::DType::F32;
    let pipeline = I2VGenXLPipeline::<B>::from_folder(folder, None, dtype, &device).unwrap();
    let image = decode_image(IMAGE, "input").unwrap();
    let (start, shape) = golden("initial_latents");
    let options = GenerateOptions {
        height: 64,
        width: 64,
        num_frames: 8,
        target_fps: 8.0,
        num_inference_steps: 1,
        guidance_scale: 1.0,
        seed: Some(1234),
        image_latents: ImageLatents::Mode,
        output_type: i2vgen_pipeline::OutputType::Latent,
        ..Default::default()
    };
    let run = |options: &GenerateOptions| {
        let result = pipeline.run(&image, PROMPT, options, |_| ControlFlow::Continue(()));
        result.unwrap().latents
    };
    let seeded = run(&options);
    let given = run(&GenerateOptions {
        latents: Some(Latents {
            values: start,
            shape: shape.try_into().unwrap(),
        }),
        ..options.clone()
    });
    assert_eq!(seeded, given);
}
