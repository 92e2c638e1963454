//! The whole pipeline against diffusers 0.33.1, one case per feature (`goldens/pipeline/generate.py`).

use std::ops::ControlFlow;

use burn::tensor::DType;
use i2vgen_pipeline::{Compat, GenerateOptions, I2VGenXLPipeline, ImageLatents, decode_image};
use i2vgen_tests::TestBackend;
use safetensors::SafeTensors;
use serde_json::Value;

const CASES: &str = include_str!("../../goldens/pipeline/cases.json");
const TENSORS: &[u8] = include_bytes!("../../goldens/pipeline/cases.safetensors");
const IMAGE: &[u8] = include_bytes!("../../goldens/pipeline/input.png");

fn options(case: &Value) -> GenerateOptions {
    let size = |name: &str| case[name].as_u64().expect(name) as usize;
    let real = |name: &str| case[name].as_f64().expect(name);
    let text = |name: &str| case[name].as_str().expect(name);
    GenerateOptions {
        negative_prompt: text("negative_prompt").into(),
        height: size("height"),
        width: size("width"),
        target_fps: real("target_fps"),
        num_frames: size("num_frames"),
        num_inference_steps: size("num_inference_steps"),
        guidance_scale: real("guidance_scale"),
        eta: real("eta"),
        num_videos_per_prompt: size("num_videos_per_prompt"),
        clip_skip: case["clip_skip"].as_u64().map(|n| n as usize),
        seed: case["seed"].as_u64(),
        image_latents: match text("image_latents") {
            "mode" => ImageLatents::Mode,
            "sample" => ImageLatents::Sample,
            other => panic!("{other}"),
        },
        compat: match text("compat") {
            "corrected" => Compat::Corrected,
            "diffusers" => Compat::Diffusers,
            "vgen" => Compat::VGen,
            other => panic!("{other}"),
        },
        ..Default::default()
    }
}

fn golden(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).expect(name);
    let (chunks, _) = tensor.data().as_chunks::<4>();
    chunks.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn every_case() {
    let cases: serde_json::Map<String, Value> = serde_json::from_str(CASES).expect("cases");
    assert!(cases.len() >= 12);
    let tensors = SafeTensors::deserialize(TENSORS).expect("tensors");
    let device = Default::default();
    let folder = i2vgen_demo_model::folder();
    let pipeline = I2VGenXLPipeline::<TestBackend>::from_folder(folder, None, DType::F32, &device)
        .expect("opens");
    let image = decode_image(IMAGE, "input.png").expect("decodes");
    let mut failures = Vec::new();
    for (name, case) in &cases {
        let prompt = case["prompt"].as_str().expect("prompt");
        let run = pipeline.run(
            &image,
            prompt,
            &options(case),
            |_| ControlFlow::Continue(()),
        );
        let result = run.expect(name);
        let expected = golden(&tensors, &format!("{name}.latents"));
        assert_eq!(result.latents.values.len(), expected.len(), "{name}");
        let off = |(a, b): (&f32, &f32)| (a - b).abs();
        let max = result
            .latents
            .values
            .iter()
            .zip(&expected)
            .map(off)
            .fold(
                0f32,
                |max, x| if x.is_nan() { f32::MAX } else { max.max(x) },
            );
        let frames = golden(&tensors, &format!("{name}.frames"));
        let video = result.video.expect("a video");
        assert_eq!(video.values().len(), frames.len(), "{name}");
        let square = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
        let error = video.values().iter().zip(&frames).map(square).sum::<f64>();
        let psnr = -10.0 * (error / frames.len() as f64).log10();
        println!("{name}: latents max-abs {max:.2e}, frames {psnr:.1} dB");
        // NaN must fail too.
        let good = max <= 1e-3 && psnr >= 60.0;
        if !good {
            failures.push(format!(
                "{name}: latents max-abs {max:e}, frames {psnr:.1} dB"
            ));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn cases_differ() {
    // Otherwise an option could be ignored unnoticed.
    let tensors = SafeTensors::deserialize(TENSORS).expect("tensors");
    let base = golden(&tensors, "base.latents");
    for name in [
        "negative_prompt",
        "sampled_posterior",
        "eta",
        "clip_skip_2",
        "clip_skip_none",
        "vgen",
        "no_guidance",
    ] {
        let other = golden(&tensors, &format!("{name}.latents"));
        let max = base
            .iter()
            .zip(&other)
            .map(|(a, b)| (a - b).abs())
            .fold(0f32, f32::max);
        assert!(max > 1e-2, "{name} equals base within {max:e}");
    }
    let corrected = golden(&tensors, "border_corrected.frames");
    let reference = golden(&tensors, "border_diffusers.frames");
    assert_ne!(corrected, reference);
}
