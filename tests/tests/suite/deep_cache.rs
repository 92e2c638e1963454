//! `cache_interval` in whole runs of the demo model. What a single pass computes is compared with diffusers in `i2vgen-unet3d`.

use std::ops::ControlFlow;

use burn::tensor::{DType, Tensor, TensorData};
use i2vgen_pipeline::{
    GenerateOptions, I2VGenXLPipeline, ImageLatents, Latents, OutputType, PipelineError,
    StartFrames, StartVideo, decode_image,
};
use i2vgen_schedulers::StepArgs;
use i2vgen_tests::{SLACK, TestBackend, distance};
use i2vgen_unet3d::DeepCache;
use safetensors::SafeTensors;

type B = TestBackend;

/// Made by diffusers for another test: what the parts before the UNet give.
const REFERENCE: &[u8] = include_bytes!("../../goldens/demo/reference.safetensors");
const IMAGE: &[u8] = include_bytes!("../../goldens/demo/input_64.png");
const PROMPT: &str = "a red circle moves left";

fn tensor<const D: usize>(name: &str) -> Tensor<B, D> {
    let file = SafeTensors::deserialize(REFERENCE).expect("golden");
    let tensor = file.tensor(name).expect(name);
    let (chunks, _) = tensor.data().as_chunks::<4>();
    let values: Vec<f32> = chunks.iter().map(|b| f32::from_le_bytes(*b)).collect();
    Tensor::from_data(TensorData::new(values, tensor.shape()), &Default::default())
}

fn pipeline() -> I2VGenXLPipeline<B> {
    let folder = i2vgen_demo_model::folder();
    I2VGenXLPipeline::from_folder(folder, None, DType::F32, &Default::default()).expect("opens")
}

fn small() -> GenerateOptions {
    GenerateOptions {
        height: 32,
        width: 40,
        target_fps: 8.0,
        num_frames: 3,
        num_inference_steps: 6,
        guidance_scale: 2.5,
        seed: Some(7),
        image_latents: ImageLatents::Mode,
        output_type: OutputType::Latent,
        ..Default::default()
    }
}

fn run(prompts: &[&str], options: &GenerateOptions) -> Latents {
    let image = decode_image(IMAGE, "input").expect("decodes");
    let result = pipeline().run(&image, prompts, options, |_| ControlFlow::Continue(()));
    result.expect("runs").latents
}

fn every(cache_interval: usize, options: &GenerateOptions) -> Latents {
    let options = GenerateOptions {
        cache_interval,
        ..options.clone()
    };
    run(&[PROMPT], &options)
}

/// A loop of one's own over the parts, in which the evaluations of `full` fill the cache.
#[test]
fn equals_a_loop_by_hand() {
    let (steps, scale) = (5, 5.0);
    let parts = pipeline().into_components().expect("loads");
    let text: Tensor<B, 3> = Tensor::cat(
        vec![tensor("negative_prompt_embeds"), tensor("prompt_embeds")],
        0,
    );
    let image: Tensor<B, 3> = tensor::<2>("image_embeds").unsqueeze_dim(1);
    let image = Tensor::cat(vec![image.zeros_like(), image], 0);
    let prepared = parts
        .unet
        .prepare(text, image, tensor("image_latents"), 8.0, 1.0)
        .expect("prepares");
    let start: Tensor<B, 5> = tensor("initial_latents");
    let shape @ [_, channels, frames, h, w] = start.dims();
    let by_hand = |full: &[usize]| {
        let mut scheduler = parts.scheduler.clone();
        scheduler.set_timesteps(steps).expect("steps");
        let frame_major = |x: Tensor<B, 5>| -> Tensor<B, 4> {
            let x: Tensor<B, 5> = x.permute([0, 2, 1, 3, 4]);
            x.reshape([frames, channels, h, w])
        };
        let mut x = frame_major(start.clone());
        let mut cache = DeepCache::new();
        for (index, t) in scheduler.timesteps().to_vec().into_iter().enumerate() {
            if full.contains(&index) {
                cache.clear();
            }
            let input: Tensor<B, 5> = x.clone().unsqueeze::<5>().permute([0, 2, 1, 3, 4]);
            let both = parts
                .unet
                .forward_cached(input, t, &prepared, &mut cache)
                .expect("runs");
            let (without, with) = (both.clone().narrow(0, 0, 1), both.narrow(0, 1, 1));
            let guided = without.clone() + (with - without) * scale;
            let step = scheduler.step(frame_major(guided), index, x, StepArgs::default());
            x = step.expect("steps");
        }
        let x: Tensor<B, 5> = x.unsqueeze::<5>().permute([0, 2, 1, 3, 4]);
        x.into_data().to_vec::<f32>().expect("f32")
    };
    let options = GenerateOptions {
        height: 64,
        width: 64,
        num_frames: frames,
        num_inference_steps: steps,
        guidance_scale: scale,
        latents: Some(Latents {
            values: start.to_data().to_vec().expect("f32"),
            shape,
        }),
        ..small()
    };
    let mut seen: Vec<Vec<f32>> = Vec::new();
    for (interval, full) in [
        (1, &[0, 1, 2, 3, 4][..]),
        (2, &[0, 2, 4]),
        (3, &[0, 3]),
        (9, &[0]),
    ] {
        let found = every(interval, &options).values;
        let off = distance(&found, &by_hand(full));
        println!("every {interval}: off by {off:.1e}");
        assert!(off <= 1e-3 * SLACK, "every {interval}: {off}");
        let nearest = seen.iter().map(|other| distance(&found, other));
        let nearest = nearest.fold(f32::INFINITY, f32::min);
        assert!(nearest > 1e-2, "every {interval}: {nearest}");
        seen.push(found);
    }
}

#[test]
fn an_interval_of_one_changes_nothing() {
    assert_eq!(every(1, &small()), run(&[PROMPT], &small()));
    assert_ne!(every(2, &small()), run(&[PROMPT], &small()));
    let result = pipeline().run(
        &decode_image(IMAGE, "input").expect("decodes"),
        PROMPT,
        &GenerateOptions {
            cache_interval: 0,
            ..small()
        },
        |_| ControlFlow::Continue(()),
    );
    let name = match result {
        Err(PipelineError::Option { name, .. }) => name,
        other => panic!("{other:?}"),
    };
    assert_eq!(name, "cache_interval");
}

#[test]
fn where_guidance_begins_or_ends_an_evaluation_is_full() {
    // Of six steps the third has other rows than the second.
    let options = GenerateOptions {
        guidance_start: 0.5,
        ..small()
    };
    assert_eq!(every(3, &options), every(100, &options));
    assert_ne!(every(3, &small()), every(100, &small()));
    // Also where it ends, and counting starts again there: full are 0, 2, 4 or 0, 2.
    let options = GenerateOptions {
        guidance_end: 1.0 / 3.0,
        ..small()
    };
    assert_eq!(every(4, &options), every(100, &options));
    assert_ne!(every(2, &options), every(100, &options));
}

#[test]
fn halves_batches_and_layers_from_disk() {
    let options = GenerateOptions {
        cache_interval: 2,
        guidance_start: 0.1,
        guidance_end: 0.8,
        num_videos_per_prompt: 2,
        seeds: vec![3, 4, 5, 6],
        ..small()
    };
    let prompts = [PROMPT, "a blue square grows"];
    let whole = run(&prompts, &options);
    let full = GenerateOptions {
        cache_interval: 1,
        ..options.clone()
    };
    assert!(distance(&run(&prompts, &full).values, &whole.values) > 1e-2);
    let split = GenerateOptions {
        split_guidance: true,
        ..options.clone()
    };
    let found = run(&prompts, &split);
    assert!(distance(&found.values, &whole.values) <= 1e-4 * SLACK);
    let streamed = GenerateOptions {
        stream_unet: true,
        ..split
    };
    assert_eq!(run(&prompts, &streamed), found);
    let part = whole.values.len() / 4;
    for (video, seed) in options.seeds.iter().enumerate() {
        let alone = GenerateOptions {
            num_videos_per_prompt: 1,
            seeds: vec![*seed],
            ..options.clone()
        };
        let alone = run(&prompts[video / 2..=video / 2], &alone);
        let off = distance(&alone.values, &whole.values[video * part..][..part]);
        assert!(off <= 1e-4 * SLACK, "video {video}: {off}");
    }
}

/// Model evaluations are counted, of which Heun has two in all steps but the last; and a start from a video skips some.
#[test]
fn evaluations_of_other_samplers_and_starts() {
    let heun = GenerateOptions {
        scheduler: Some("heun".into()),
        num_inference_steps: 3,
        ..small()
    };
    let of = [1, 2, 3, 4, 5, 6].map(|interval| every(interval, &heun));
    // Five evaluations.
    for (i, one) in of.iter().enumerate() {
        for (j, other) in of.iter().enumerate().skip(i + 1) {
            assert_eq!(one == other, (i, j) == (4, 5), "{} and {}", i + 1, j + 1);
        }
    }
    let start = GenerateOptions {
        start: Some(StartVideo {
            frames: StartFrames::Latents(run(&[PROMPT], &small())),
            strength: 0.5,
        }),
        ..small()
    };
    // Three of six steps are run, the first of them in full.
    assert_eq!(every(3, &start), every(100, &start));
    assert_ne!(every(2, &start), every(100, &start));
    assert_ne!(every(1, &start), every(2, &start));
}
