//! Batches, embeddings, seed lists and guidance variants against diffusers 0.33.1 (`goldens/pipeline_batch/generate.py`), and
//! what must hold among our own runs.

use std::ops::ControlFlow;

use burn::tensor::DType;
use i2vgen_pipeline::{
    Compat, Embeds, Event, FreeU, GenerateOptions, Generation, I2VGenXLPipeline, ImageLatents,
    OutputType, Prompt, SchedulerOptions, VaeTiling, decode_image,
};
use i2vgen_tests::TestBackend;
use i2vgen_tests::distance;
use image::{RgbImage, imageops::flip_horizontal};
use safetensors::SafeTensors;
use serde_json::Value;

const CASES: &str = include_str!("../../goldens/pipeline_batch/cases.json");
const TENSORS: &[u8] = include_bytes!("../../goldens/pipeline_batch/cases.safetensors");
const IMAGE: &[u8] = include_bytes!("../../goldens/pipeline/input.png");
type Pipeline = I2VGenXLPipeline<TestBackend>;

fn pipeline() -> Pipeline {
    let folder = i2vgen_demo_model::folder();
    Pipeline::from_folder(folder, None, DType::F32, &Default::default()).expect("opens")
}

/// The picture, and its mirror image.
fn images() -> Vec<RgbImage> {
    let image = decode_image(IMAGE, "input.png").expect("decodes");
    let mirrored = flip_horizontal(&image);
    vec![image, mirrored]
}

fn small() -> GenerateOptions {
    GenerateOptions {
        height: 32,
        width: 40,
        target_fps: 8.0,
        num_frames: 3,
        num_inference_steps: 3,
        guidance_scale: 2.5,
        seed: Some(7),
        image_latents: ImageLatents::Mode,
        output_type: OutputType::Latent,
        ..Default::default()
    }
}

fn run(images: &[RgbImage], prompt: impl Into<Prompt>, options: &GenerateOptions) -> Generation {
    let result = pipeline().run(images, prompt, options, |_| ControlFlow::Continue(()));
    result.expect("runs")
}

#[test]
fn every_case() {
    let cases: serde_json::Map<String, Value> = serde_json::from_str(CASES).expect("cases");
    let file = SafeTensors::deserialize(TENSORS).expect("tensors");
    let golden = |name: &str| -> Option<Vec<f32>> {
        let (chunks, _) = file.tensor(name).ok()?.data().as_chunks::<4>();
        Some(chunks.iter().map(|b| f32::from_le_bytes(*b)).collect())
    };
    let mut failures = Vec::new();
    for (name, case) in &cases {
        let real = |name: &str| case[name].as_f64().expect(name);
        let texts = |name: &str| -> Prompt {
            let list = case[name].as_array().expect(name);
            Prompt::Texts(
                list.iter()
                    .map(|t| t.as_str().expect(name).to_owned())
                    .collect(),
            )
        };
        let embeds = |key: &str, texts: Prompt| match golden(&format!("{name}.{key}")) {
            Some(values) => Embeds {
                shape: [2, 40, values.len() / 80],
                values,
            }
            .into(),
            None => texts,
        };
        let seeds: Vec<u64> = case["seeds"]
            .as_array()
            .expect("seeds")
            .iter()
            .filter_map(Value::as_u64)
            .collect();
        let options = GenerateOptions {
            negative_prompt: embeds("negative_prompt_embeds", texts("negative_prompt")),
            guidance_scale: real("guidance_scale"),
            guidance_start: real("guidance_start"),
            guidance_end: real("guidance_end"),
            guidance_rescale: real("guidance_rescale"),
            eta: real("eta"),
            num_videos_per_prompt: case["num_videos_per_prompt"].as_u64().expect("count") as usize,
            seeds,
            image_latents: match case["image_latents"] == "sample" {
                true => ImageLatents::Sample,
                false => ImageLatents::Mode,
            },
            num_inference_steps: case["num_inference_steps"].as_u64().expect("steps") as usize,
            scheduler: case["scheduler"].as_str().map(str::to_owned),
            scheduler_options: SchedulerOptions {
                karras_sigmas: case["karras_sigmas"].as_bool(),
                solver_order: case["solver_order"].as_u64().map(|n| n as usize),
                ..Default::default()
            },
            freeu: case["freeu"].as_array().map(|f| {
                let factor = |i: usize| f[i].as_f64().expect("a factor");
                FreeU {
                    s1: factor(0),
                    s2: factor(1),
                    b1: factor(2),
                    b2: factor(3),
                }
            }),
            compat: Compat::Diffusers,
            ..small()
        };
        let images = &images()[..case["images"].as_u64().expect("images") as usize];
        let prompt = embeds("prompt_embeds", texts("prompt"));
        let found = run(images, prompt.clone(), &options).latents.values;
        let expected = golden(&format!("{name}.latents")).expect("latents");
        let max = distance(&found, &expected);
        println!("{name}: latents max-abs {max:.2e}");
        if max > 1e-3 {
            failures.push(format!("{name}: {max:e}"));
        }
        let split = GenerateOptions {
            split_guidance: true,
            ..options
        };
        let max = distance(&found, &run(images, prompt, &split).latents.values);
        if max > 1e-5 {
            failures.push(format!("{name} with split guidance: {max:e}"));
        }
    }
    assert!(cases.len() >= 22 && failures.is_empty(), "{failures:#?}");
}

#[test]
fn a_batch_is_its_videos_one_by_one() {
    let prompts = ["a red circle moves left", "a blue square grows"];
    let seeds = [3, 4, 5, 6];
    let options = GenerateOptions {
        num_videos_per_prompt: 2,
        image_latents: ImageLatents::Sample,
        eta: 0.5,
        seeds: seeds.to_vec(),
        ..small()
    };
    let images = images();
    let batch = run(&images, &prompts[..], &options);
    assert_eq!(batch.seeds, seeds);
    let part = batch.latents.values.len() / 4;
    for (video, seed) in seeds.into_iter().enumerate() {
        let single = GenerateOptions {
            num_videos_per_prompt: 1,
            seeds: vec![],
            seed: Some(seed),
            ..options.clone()
        };
        let alone = run(&images[video / 2..=video / 2], prompts[video / 2], &single);
        let max = distance(
            &alone.latents.values,
            &batch.latents.values[video * part..][..part],
        );
        assert!(max <= 1e-4, "video {video}: {max:e}");
    }
    // One picture for all.
    let shared = run(&images[..1], &prompts[..], &options);
    let both = run(
        &[images[0].clone(), images[0].clone()],
        &prompts[..],
        &options,
    );
    assert_eq!(shared.latents, both.latents);
    assert_ne!(shared.latents, batch.latents);
}

#[test]
fn what_comes_out_goes_in() {
    let images = &images()[..1];
    let options = small();
    let prompt = "a red circle moves left";
    let first = run(images, prompt, &options);
    let again = GenerateOptions {
        latents: Some(first.initial_latents.clone()),
        negative_prompt: first.negative_prompt_embeds.clone().expect("guided").into(),
        seed: Some(99),
        ..options.clone()
    };
    let second = run(images, first.prompt_embeds.clone(), &again);
    assert_eq!(first.latents, second.latents);

    let encoded = pipeline().encode_prompt(prompt, &options).expect("encodes");
    assert_eq!(
        Embeds::from_tensor(encoded.prompt_embeds),
        first.prompt_embeds
    );

    // Decoding alone gives what a whole run decodes.
    let whole = GenerateOptions {
        output_type: OutputType::Video,
        ..options.clone()
    };
    let video = run(images, prompt, &whole).video.expect("a video");
    let decoded = pipeline()
        .decode_latents(&first.latents, &whole)
        .expect("decodes");
    assert_eq!(video, decoded);

    // Frames as images, array and tensor.
    let tensor = video.to_tensor::<TestBackend>(&Default::default());
    assert_eq!(tensor.dims(), [1, 3, 3, 32, 40]);
    let images = video.images(0);
    let at = |frame: usize, y: usize, x: usize, c: usize| {
        let value = tensor
            .clone()
            .slice([0..1, frame..frame + 1, c..c + 1, y..y + 1, x..x + 1]);
        let value: f32 = value.into_scalar();
        let index = ((frame * 32 + y) * 40 + x) * 3 + c;
        assert_eq!(value, video.values()[index]);
        let byte = images[frame].get_pixel(x as u32, y as u32)[c];
        assert!(
            (value * 255.0 - f32::from(byte)).abs() <= 0.5,
            "{value} {byte}"
        );
    };
    at(0, 0, 0, 0);
    at(2, 31, 39, 2);
    at(1, 7, 30, 1);
}

#[test]
fn components_are_shared_and_resident_ones_give_the_same() {
    let images = &images()[..1];
    let (prompt, options) = ("a red circle moves left", small());
    let first = run(images, prompt, &options);
    let components = pipeline().into_components().expect("loads");
    let joined = Pipeline::from_components(components, &Default::default());
    let resident = pipeline().keep_resident().expect("loads");
    for pipeline in [joined, resident.clone(), resident] {
        let result = pipeline.run(images, prompt, &options, |_| ControlFlow::Continue(()));
        assert_eq!(result.expect("runs").latents, first.latents);
    }
}

#[test]
fn weights_in_prompts() {
    let images = &images()[..1];
    let options = small();
    let weighted = GenerateOptions {
        prompt_weighting: true,
        ..options.clone()
    };
    let plain = run(images, "a red circle moves left", &options);
    let unit = run(images, "a (red:1.0) circle moves left", &weighted);
    assert_eq!(plain.latents, unit.latents);
    let strong = run(images, "a (red:1.4) circle moves [left]", &weighted);
    assert!(distance(&plain.latents.values, &strong.latents.values) > 1e-3);
    // Off by default: brackets are text.
    let text = run(images, "a (red:1.0) circle moves left", &options);
    assert_ne!(plain.latents, text.latents);
    let result = pipeline().run(images, "a (red circle", &weighted, |_| {
        ControlFlow::Continue(())
    });
    assert!(result.is_err());
}

#[test]
fn samplers_that_draw_noise_take_a_seed_for_each_video() {
    for scheduler in ["euler-ancestral", "ddpm", "sde-dpmsolver++"] {
        let options = GenerateOptions {
            scheduler: Some(scheduler.into()),
            num_videos_per_prompt: 2,
            seeds: vec![11, 12],
            ..small()
        };
        let both = run(&images()[..1], "a red circle moves left", &options);
        let alone = GenerateOptions {
            num_videos_per_prompt: 1,
            seeds: vec![12],
            ..options
        };
        let alone = run(&images()[..1], "a red circle moves left", &alone);
        let second = &both.latents.values[alone.latents.values.len()..];
        let max = distance(second, &alone.latents.values);
        assert!(max <= 1e-4, "{scheduler}: {max:e}");
    }
}

#[test]
fn previews_come_closer() {
    let options = GenerateOptions {
        num_inference_steps: 6,
        output_type: OutputType::Video,
        preview_every: Some(2),
        ..small()
    };
    for scheduler in ["ddim", "euler", "unipc"] {
        let options = GenerateOptions {
            scheduler: Some(scheduler.into()),
            ..options.clone()
        };
        let mut previews = Vec::new();
        let result = pipeline().run(
            &images()[..1],
            "a red circle moves left",
            &options,
            |event| {
                if let Event::Preview { done, video } = event {
                    previews.push((done, video.clone()));
                }
                ControlFlow::Continue(())
            },
        );
        let video = result.expect("runs").video.expect("a video");
        let error = |preview: &i2vgen_pipeline::Video| {
            let pairs = preview.values().iter().zip(video.values());
            let sum: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
            (sum / video.values().len() as f64).sqrt()
        };
        let errors: Vec<f64> = previews.iter().map(|(_, v)| error(v)).collect();
        println!("{scheduler}: {errors:.3?}");
        let steps: Vec<usize> = previews.iter().map(|(done, _)| *done).collect();
        assert_eq!(steps, [2, 4, 6], "{scheduler}");
        // The last step goes to the clean sample itself.
        assert!(
            errors[0] > errors[2] && errors[2] < 0.03,
            "{scheduler}: {errors:?}"
        );
        // A preview changes nothing.
        let without = GenerateOptions {
            preview_every: None,
            ..options
        };
        let plain = run(&images()[..1], "a red circle moves left", &without);
        assert_eq!(plain.video.expect("a video"), video, "{scheduler}");
    }
}

#[test]
fn tiles_and_slices() {
    let options = GenerateOptions {
        output_type: OutputType::Video,
        decode_chunk_size: 3,
        ..small()
    };
    let whole = run(&images()[..1], "a red circle moves left", &options);
    let sliced = GenerateOptions {
        vae_slicing: true,
        ..options.clone()
    };
    let sliced = run(&images()[..1], "a red circle moves left", &sliced);
    let max = |a: &Generation, b: &Generation| {
        let [a, b] = [a, b].map(|g| g.video.as_ref().expect("a video").values());
        distance(a, b)
    };
    assert!(max(&whole, &sliced) <= 1e-5);
    let tiled = GenerateOptions {
        vae_tiling: Some(VaeTiling::Tiles(i2vgen_pipeline::Tiling {
            tile_sample_min_size: [24, 24],
            tile_overlap_factor: 0.5,
        })),
        ..options
    };
    let tiled = run(&images()[..1], "a red circle moves left", &tiled);
    let off = max(&whole, &tiled);
    assert!(off > 1e-4 && off < 0.7, "{off}");
}

#[test]
fn counts_that_do_not_match() {
    let images = images();
    let one = &images[..1];
    let cases: [(&[RgbImage], &[&str], GenerateOptions, &str); 7] = [
        (&images, &["a"], small(), "2 images for 1 prompts"),
        (&[], &["a"], small(), "0 images for 1 prompts"),
        (one, &[], small(), "there is none"),
        (
            one,
            &["a"],
            GenerateOptions {
                negative_prompt: (&["x", "y"][..]).into(),
                ..small()
            },
            "2 negative prompts for 1 prompts",
        ),
        (
            one,
            &["a"],
            GenerateOptions {
                seeds: vec![1, 2],
                ..small()
            },
            "2 seeds for 1 videos",
        ),
        (
            one,
            &["a"],
            GenerateOptions {
                guidance_end: 1.5,
                ..small()
            },
            "guidance_end: 1.5",
        ),
        (
            one,
            &["a"],
            GenerateOptions {
                negative_prompt: Embeds {
                    values: vec![0.0; 77],
                    shape: [1, 77, 1],
                }
                .into(),
                ..small()
            },
            "belong to another model",
        ),
    ];
    for (images, prompts, options, message) in cases {
        let result = pipeline().run(images, prompts, &options, |_| ControlFlow::Continue(()));
        let error = result.expect_err(message).to_string();
        assert!(error.contains(message), "{message}: {error}");
    }
}
