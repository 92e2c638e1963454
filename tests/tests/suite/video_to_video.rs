//! `VideoToVideoPipeline` against diffusers' `VideoToVideoSDPipeline` (`goldens/video_to_video`), and what diffusers does not
//! have: several prompts, windows, MS-Vid2Vid-XL.

use std::path::PathBuf;

use burn::tensor::{DType, Tensor};
use i2vgen_checkpoint::Folder;
use i2vgen_pipeline::{
    Compat, Latents, OutputType, PipelineError, Prompt, Vid2VidSolver, Video, VideoInput,
    VideoToVideoOptions, VideoToVideoPipeline, Windows,
};
use i2vgen_tests::{SLACK, TestBackend, distance, repository};
use i2vgen_unet3d::{UNet3DConditionModel, UNet3DConditionModelConfig};
use safetensors::SafeTensors;
use serde_json::Value;

type Pipeline = VideoToVideoPipeline<TestBackend>;

struct Goldens {
    bytes: Vec<u8>,
    cases: Value,
}

fn folder(name: &str) -> PathBuf {
    repository("tests/goldens").join(name)
}

fn pipeline() -> Pipeline {
    let folder = Folder::open(folder("video_to_video/model")).expect("opens");
    let base = i2vgen_demo_model::folder();
    Pipeline::from_folder(folder, Some(&base), None, DType::F32, &Default::default())
        .expect("opens")
}

impl Goldens {
    fn read() -> Self {
        let read = |file: &str| std::fs::read(folder("video_to_video").join(file)).expect(file);
        Self {
            bytes: read("cases.safetensors"),
            cases: serde_json::from_slice::<Value>(&read("cases.json")).expect("json")["cases"]
                .clone(),
        }
    }

    fn raw(&self, name: &str) -> (Vec<u8>, Vec<usize>) {
        let file = SafeTensors::deserialize(&self.bytes).expect("golden");
        let tensor = file.tensor(name).expect(name);
        (tensor.data().to_vec(), tensor.shape().to_vec())
    }

    fn f32(&self, name: &str) -> (Vec<f32>, Vec<usize>) {
        let (bytes, shape) = self.raw(name);
        let (words, _) = bytes.as_chunks::<4>();
        (
            words.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            shape,
        )
    }

    fn video(&self, name: &str) -> Video {
        let (bytes, shape) = self.raw(&format!("video.{name}"));
        let values = bytes.iter().map(|v| f32::from(*v) / 255.0).collect();
        Video::new(values, [1, shape[0], shape[1], shape[2]], 8.0).expect("a video")
    }

    /// Of a first stage: channels before frames.
    fn latents(&self) -> Latents {
        let (values, shape) = self.f32("video.latents");
        let [n, f, c, h, w] = shape.try_into().expect("rank 5");
        let data = burn::tensor::TensorData::new(values, [n, f, c, h, w]);
        let x = Tensor::<TestBackend, 5>::from_data(data, &Default::default());
        Latents::from_tensor(x.permute([0, 2, 1, 3, 4]))
    }
}

fn options(case: &Value) -> (String, VideoToVideoOptions) {
    let text = |key: &str| case[key].as_str().expect(key).to_owned();
    let number = |key: &str| case[key].as_f64().expect(key);
    let options = VideoToVideoOptions {
        negative_prompt: text("negative_prompt").into(),
        strength: number("strength"),
        num_inference_steps: number("num_inference_steps") as usize,
        guidance_scale: number("guidance_scale"),
        eta: number("eta"),
        clip_skip: case["clip_skip"].as_u64().map(|skip| skip as usize),
        seed: case["seed"].as_u64(),
        scheduler: Some(text("scheduler")),
        compat: Compat::Diffusers,
        decode_chunk_size: 2,
        ..Default::default()
    };
    (text("prompt"), options)
}

#[test]
fn every_case() {
    let goldens = Goldens::read();
    let pipeline = pipeline();
    let (latents_in, mut count, mut worst) = (goldens.latents(), 0, 0f32);
    for (name, case) in goldens.cases.as_object().expect("cases") {
        let (prompt, options) = options(case);
        let video;
        let input = match case["video"].as_str().expect("a name") {
            "latents" => VideoInput::Latents(&latents_in),
            other => {
                video = goldens.video(other);
                VideoInput::Frames(&video)
            }
        };
        let mut timesteps = Vec::new();
        let run = pipeline.run(input, prompt, &options, |event| {
            if let i2vgen_pipeline::Event::Step { timestep, .. } = event {
                timesteps.push(timestep);
            }
            std::ops::ControlFlow::Continue(())
        });
        let run = run.expect(name);
        let expected: Vec<f64> = serde_json::from_value(case["timesteps"].clone()).expect("list");
        assert_eq!(timesteps, expected, "{name}");
        let (expected, shape) = goldens.f32(&format!("{name}.latents"));
        assert_eq!(run.latents.shape[..], shape[..], "{name}");
        let error = distance(&run.latents.values, &expected);
        println!("{name}: {error:.1e}");
        assert!(error <= 1e-4 * SLACK, "{name}: {error}");
        worst = worst.max(error);
        if ["base", "latents"].contains(&name.as_str()) {
            let (frames, _) = goldens.f32(&format!("{name}.frames"));
            let video = run.video.expect("frames");
            let error = distance(video.values(), &frames);
            println!("{name}, frames: {error:.1e}");
            assert!(error <= 1e-4 * SLACK, "{name}: {error}");
        }
        count += 1;
    }
    println!("{count} cases, the worst {worst:.1e}");
    assert!(count >= 23);
}

fn base(goldens: &Goldens) -> (String, VideoToVideoOptions) {
    let (prompt, options) = options(&goldens.cases["base"]);
    let options = VideoToVideoOptions {
        compat: Compat::Corrected,
        ..options
    };
    (prompt, options)
}

/// diffusers fails on two prompts.
#[test]
fn prompts_in_a_batch_are_as_alone() {
    let goldens = Goldens::read();
    let (pipeline, video) = (pipeline(), goldens.video("wide"));
    let (_, options) = base(&goldens);
    let prompts = ["a red circle moves left", "a blue square moves up"];
    let latents = |prompt: Prompt, options: &VideoToVideoOptions| {
        let options = VideoToVideoOptions {
            output_type: OutputType::Latent,
            ..options.clone()
        };
        let run = pipeline.run(&video, prompt, &options, |_| {
            std::ops::ControlFlow::Continue(())
        });
        run.expect("runs").latents.values
    };
    let both = latents(
        prompts[..].into(),
        &VideoToVideoOptions {
            seeds: vec![7, 8],
            ..options.clone()
        },
    );
    let alone: Vec<Vec<f32>> = (0..2)
        .map(|i| {
            let seeds = vec![7 + i as u64];
            latents(
                prompts[i].into(),
                &VideoToVideoOptions {
                    seeds,
                    ..options.clone()
                },
            )
        })
        .collect();
    assert!(distance(&alone[0], &alone[1]) > 0.1);
    let error = distance(&both, &alone.concat());
    assert!(error <= 1e-5 * SLACK, "{error}");
    // One after the other, or from disk layer by layer: the same.
    for (split_guidance, stream_unet) in [(true, false), (false, true)] {
        let other = latents(
            prompts[0].into(),
            &VideoToVideoOptions {
                seeds: vec![7],
                split_guidance,
                stream_unet,
                ..options.clone()
            },
        );
        assert!(distance(&other, &alone[0]) <= 1e-5 * SLACK);
    }
}

/// Parts see less than the whole, so that the result is near to it, not equal.
#[test]
fn windows_are_near_the_whole() {
    let goldens = Goldens::read();
    let pipeline = pipeline();
    let (prompt, options) = base(&goldens);
    let video = goldens.video("square");
    let refine = |windows| {
        let options = VideoToVideoOptions {
            windows,
            ..options.clone()
        };
        let video = pipeline.refine(&video, prompt.as_str(), &options);
        video.expect("runs").values().to_vec()
    };
    let whole = refine(None);
    assert_eq!(whole, refine(Some(Windows::of(64, 99))), "one part is all");
    for (name, windows, least) in [
        ("space", Windows::of(12, 99), 24.0),
        (
            "time",
            Windows {
                frames: [2, 1],
                ..Windows::of(99, 1)
            },
            20.0,
        ),
    ] {
        let parts = refine(Some(windows));
        let squares = whole.iter().zip(&parts);
        let squares: f64 = squares.map(|(a, b)| f64::from(a - b).powi(2)).sum();
        let psnr = -10.0 * (squares / whole.len() as f64).log10();
        println!("{name}: {psnr:.1} dB");
        assert!(psnr > least && psnr.is_finite(), "{name}: {psnr}");
    }
}

/// A small model in MS-Vid2Vid-XL's shape, beside the demo model, through the whole procedure of the release.
#[test]
fn ms_vid2vid() {
    let device = Default::default();
    let folder = tempfile::tempdir().expect("a folder");
    let config = UNet3DConditionModelConfig {
        block_out_channels: vec![8, 8],
        down_block_types: vec!["CrossAttnDownBlock3D".into(), "DownBlock3D".into()],
        up_block_types: vec!["UpBlock3D".into(), "CrossAttnUpBlock3D".into()],
        layers_per_block: 1,
        norm_num_groups: 4,
        cross_attention_dim: 64,
        attention_head_dim: i2vgen_unet3d::PerLevel::All(4),
        downsample_padding: i2vgen_unet3d::PerLevel::Each(vec![2, 1]),
        upsample_crop_rows: 1,
        ..Default::default()
    };
    let unet = UNet3DConditionModel::<TestBackend>::new(config, &device).expect("builds");
    unet.save_pretrained(folder.path(), DType::F32)
        .expect("saves");
    let open = || Folder::open(folder.path()).expect("opens");
    let base = i2vgen_demo_model::folder();
    let dtype = DType::F32;
    let pipeline = Pipeline::from_folder(open(), Some(&base), None, dtype, &device).expect("opens");
    assert!(pipeline.is_ms_vid2vid().expect("reads"));

    let video = Goldens::read().video("wide");
    let mut frames = Vec::new();
    for solver in [Vid2VidSolver::Dpmpp2mSde, Vid2VidSolver::Heun] {
        let options = VideoToVideoOptions {
            resize: Some([40, 64]),
            num_inference_steps: 4,
            seed: Some(8888),
            ..VideoToVideoOptions::ms_vid2vid(solver)
        };
        let refined = pipeline.refine(&video, "a circle", &options).expect("runs");
        assert_eq!((refined.shape(), refined.fps), ([1, 2, 40, 64], 8.0));
        // Cut to 8 bits.
        for value in refined.values() {
            let level = value * 255.0;
            assert!((level - level.round()).abs() < 1e-3, "{value}");
        }
        frames.push(refined);
    }
    assert_ne!(frames[0], frames[1]);

    // A first stage's own error messages.
    let without_base = Pipeline::from_folder(open(), None, None, dtype, &device);
    let error = without_base.expect_err("no text encoder").to_string();
    assert!(error.contains("base"), "{error}");
    let first_stage = Pipeline::from_folder(base.clone(), None, None, dtype, &device);
    let error = first_stage.expect_err("a first stage").to_string();
    assert!(error.contains("self"), "{error}");
}

#[test]
fn what_cannot_be_refined() {
    let goldens = Goldens::read();
    let (pipeline, video) = (pipeline(), goldens.video("wide"));
    let (prompt, good) = base(&goldens);
    let expect = |video: &Video, options: VideoToVideoOptions, names: &[&str]| {
        let error = pipeline.refine(video, prompt.as_str(), &options);
        let error = error.expect_err("refused");
        assert!(matches!(error, PipelineError::Option { .. }), "{error:?}");
        for name in names {
            assert!(error.to_string().contains(name), "{error} without {name}");
        }
    };
    let with = |change: &dyn Fn(&mut VideoToVideoOptions)| {
        let mut options = good.clone();
        change(&mut options);
        options
    };
    for strength in [0.0, -0.5, 1.5, f64::NAN] {
        expect(
            &video,
            with(&|o| o.strength = strength),
            &["strength", "0.6"],
        );
    }
    expect(&video, with(&|o| o.strength = 0.1), &["strength", "0.2"]);
    expect(
        &video,
        with(&|o| o.num_inference_steps = 0),
        &["num_inference_steps"],
    );
    expect(
        &video,
        with(&|o| o.guidance_scale = f64::NAN),
        &["guidance_scale"],
    );
    expect(&video, with(&|o| o.seeds = vec![1, 2, 3]), &["seed"]);
    expect(
        &video,
        with(&|o| o.decode_chunk_size = 0),
        &["decode_chunk_size"],
    );
    expect(&video, with(&|o| o.clip_skip = Some(99)), &["clip_skip"]);
    expect(
        &video,
        with(&|o| o.windows = Some(Windows::of(0, 1))),
        &["windows"],
    );
    expect(&video, with(&|o| o.resize = Some([41, 56])), &["56x40"]);
    let odd = Video::new(vec![0.5; 3 * 44 * 57], [1, 1, 44, 57], 8.0).expect("a video");
    expect(&odd, good.clone(), &["57x44", "56x44"]);
    let many = Video::new(vec![0.5; 3 * 9 * 64], [3, 3, 8, 8], 8.0).expect("a video");
    expect(&many, good.clone(), &["3 videos for 1 prompts"]);
}
