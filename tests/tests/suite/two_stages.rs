//! A first and a second stage, one after the other, against diffusers' parts (`goldens/two_stages`).

use std::path::Path;

use burn::tensor::DType;
use i2vgen_checkpoint::Folder;
use i2vgen_pipeline::{
    GenerateOptions, I2VGenXLPipeline, ImageLatents, Latents, OutputType, PipelineError,
    StartFrames, StartVideo, Video, VideoToVideoOptions, VideoToVideoPipeline, decode_image,
};
use i2vgen_tests::TestBackend;
use safetensors::SafeTensors;

const GOLDENS: &[u8] = include_bytes!("../../goldens/two_stages/latents.safetensors");
const IMAGE: &[u8] = include_bytes!("../../goldens/demo/input_64.png");
const PROMPT: &str = "a red circle moves left";

fn golden(name: &str) -> Latents {
    let file = SafeTensors::deserialize(GOLDENS).expect("golden");
    let tensor = file.tensor(name).expect(name);
    let (words, _) = tensor.data().as_chunks::<4>();
    Latents {
        values: words.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        shape: tensor.shape().try_into().expect("rank 5"),
    }
}

fn close(name: &str, found: &Latents, expected: &Latents) {
    assert_eq!(found.shape, expected.shape, "{name}");
    let off = found.values.iter().zip(&expected.values);
    let off = off.map(|(a, b)| (a - b).abs());
    // NaN must not pass for a small difference.
    let max = off.fold(0f32, |m, d| if d <= m { m } else { d });
    println!("{name}: max-abs {max:.1e}");
    assert!(max <= 3e-4, "{name}: {max}");
}

fn pipeline() -> I2VGenXLPipeline<TestBackend> {
    let device = Default::default();
    let pipeline =
        I2VGenXLPipeline::from_folder(i2vgen_demo_model::folder(), None, DType::F32, &device);
    pipeline.expect("opens")
}

fn options(steps: usize, seed: u64) -> GenerateOptions {
    GenerateOptions {
        height: 64,
        width: 64,
        num_frames: 8,
        target_fps: 8.0,
        num_inference_steps: steps,
        guidance_scale: 2.5,
        seed: Some(seed),
        image_latents: ImageLatents::Mode,
        output_type: OutputType::Latent,
        ..Default::default()
    }
}

fn run(options: &GenerateOptions) -> Result<Latents, PipelineError> {
    let image = decode_image(IMAGE, "image").expect("a picture");
    let run = pipeline().run(&image, PROMPT, options, |_| {
        std::ops::ControlFlow::Continue(())
    });
    Ok(run?.latents)
}

#[test]
fn the_model_refines_itself() {
    let first = run(&options(4, 7)).expect("runs");
    close("first", &first, &golden("first"));
    for (steps, percent) in [(5, 40), (4, 75), (10, 30)] {
        let options = GenerateOptions {
            start: Some(StartVideo {
                frames: StartFrames::Latents(first.clone()),
                strength: f64::from(percent) / 100.0,
            }),
            ..options(steps, 8)
        };
        let name = format!("self.{steps}.{percent}");
        close(&name, &run(&options).expect("runs"), &golden(&name));
    }
}

#[test]
fn a_second_stage_refines_latents() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/video_to_video/model");
    let folder = Folder::open(folder).expect("opens");
    let (base, device) = (i2vgen_demo_model::folder(), Default::default());
    let second = VideoToVideoPipeline::<TestBackend>::from_folder(
        folder,
        Some(&base),
        None,
        DType::F32,
        &device,
    );
    let options = VideoToVideoOptions {
        strength: 0.6,
        num_inference_steps: 5,
        guidance_scale: 3.0,
        seed: Some(8),
        output_type: OutputType::Latent,
        ..Default::default()
    };
    let first = run(&self::options(4, 7)).expect("runs");
    let refined = second.expect("opens").run(&first, PROMPT, &options, |_| {
        std::ops::ControlFlow::Continue(())
    });
    close("second", &refined.expect("runs").latents, &golden("second"));
}

#[test]
fn frames_that_a_run_cannot_begin_with() {
    let latents = |shape: [usize; 5]| {
        StartFrames::Latents(Latents {
            values: vec![0.5; shape.iter().product()],
            shape,
        })
    };
    let video = |frames: usize, side: usize| {
        let values = vec![0.5; frames * side * side * 3];
        StartFrames::Video(Video::new(values, [1, frames, side, side], 8.0).expect("a video"))
    };
    for (frames, strength, says) in [
        (latents([1, 4, 8, 16, 16]), 0.0, "strength"),
        (latents([1, 4, 8, 16, 16]), 1.5, "strength"),
        (latents([1, 4, 8, 16, 16]), 0.1, "0.25"),
        (latents([1, 4, 7, 16, 16]), 0.5, "start"),
        (latents([2, 4, 8, 16, 16]), 0.5, "start"),
        (video(8, 32), 0.5, "32x32"),
        (video(4, 64), 0.5, "start"),
    ] {
        let start = Some(StartVideo { frames, strength });
        let options = GenerateOptions {
            start,
            ..options(4, 8)
        };
        let error = run(&options).expect_err(says).to_string();
        assert!(error.contains(says), "{error} without {says}");
    }
    // Frames instead of latents.
    let start = Some(StartVideo {
        frames: video(8, 64),
        strength: 0.5,
    });
    run(&GenerateOptions {
        start,
        ..options(4, 8)
    })
    .expect("runs");
}
