//! A preview while the video is being made: the latents of every fifth step go through a tiny decoder that was trained in PyTorch,
//! exported to ONNX and imported with `cargo xtask import-onnx`. The VAE itself would take many times as long.
//!
//! ```sh
//! cargo run --release -p i2vgen-pipeline --example preview_decoder
//! ```
//!
//! writes `preview_05.png` …, the first frame above the last. `generate.py` made `preview.onnx`; `imported/` was made by
//! `cargo xtask import-onnx preview.onnx --output imported`.

use std::ops::ControlFlow;

use burn::{
    backend::Flex,
    tensor::{Bytes, DType, Tensor},
};
use i2vgen_pipeline::{Event, GenerateOptions, I2VGenXLPipeline, open_image};

#[allow(missing_docs, unreachable_pub)]
#[path = "imported/preview.rs"]
mod preview;

/// Latents `[videos, 4, frames, h, w]` to one picture: the first frame above the last.
fn picture(decoder: &preview::Model<Flex>, latents: &Tensor<Flex, 5>) -> Option<image::RgbImage> {
    let [_, channels, frames, h, w] = latents.dims();
    let frame = |i: usize| {
        latents
            .clone()
            .slice([0..1, 0..channels, i..i + 1, 0..h, 0..w])
    };
    let both = Tensor::cat(vec![frame(0), frame(frames - 1)], 0).reshape([2, channels, h, w]);
    let pixels: Tensor<Flex, 4> = decoder.forward(both);
    let [_, _, height, width] = pixels.dims();
    let bytes = (pixels.clamp(0.0, 1.0) * 255.0)
        .round()
        .permute([0, 2, 3, 1]);
    let bytes: Vec<f32> = bytes.into_data().into_vec().ok()?;
    let bytes = bytes.into_iter().map(|v| v as u8).collect();
    image::RgbImage::from_vec(width as u32, 2 * height as u32, bytes)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Default::default();
    let weights = include_bytes!("imported/preview.bpk");
    let decoder =
        preview::Model::<Flex>::from_bytes(Bytes::from_bytes_vec(weights.to_vec()), &device);
    let model = i2vgen_demo_model::folder();
    let pipeline = I2VGenXLPipeline::<Flex>::from_folder(model, None, DType::F32, &device)?;
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let image = open_image(&here.join("../demo-model/examples/red_circle_64.png"))?;
    let options = GenerateOptions {
        height: 64,
        width: 64,
        num_frames: 8,
        num_inference_steps: 25,
        guidance_scale: 2.5,
        seed: Some(0),
        ..Default::default()
    };
    let video = pipeline.run(&image, i2vgen_demo_model::PROMPT, &options, |event| {
        if let Event::Step { done, latents, .. } = event
            && done % 5 == 0
            && let Some(picture) = picture(&decoder, latents)
        {
            match picture.save(format!("preview_{done:02}.png")) {
                Ok(()) => println!("preview_{done:02}.png"),
                Err(error) => eprintln!("no preview: {error}"),
            }
        }
        ControlFlow::Continue(())
    })?;
    if let Some(video) = video.video {
        video.save("preview.gif")?;
        println!("preview.gif");
    }
    Ok(())
}
