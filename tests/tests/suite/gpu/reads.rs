//! What a denoising loop does not do: wait for numbers from the device. Seen by the driver that interprets CUDA
//! (`tests/cuda-on-cpu`), which tells of every copy to the host; what is computed is of no interest, so that nothing is.
#![cfg(all(feature = "cuda", not(feature = "prefer-wgpu")))]

use std::{env, ops::ControlFlow, process::Command};

use burn::tensor::DType;
use i2vgen_pipeline::{Event, GenerateOptions, I2VGenXLPipeline, decode_image};
use i2vgen_tests::TestBackend;

const STEPS: usize = 4;

#[test]
fn none_between_steps() {
    if env::var_os("CUDA_ON_CPU").is_none() {
        println!("NOT TESTED: reads from the device, of which only tests/cuda-on-cpu tells");
        return;
    }
    let run = Command::new(env::current_exe().unwrap())
        .args(["a_run_to_watch", "--ignored", "--nocapture"])
        .env("CUDA_ON_CPU_DRY", "1")
        .env("CUDA_ON_CPU_LOG", "1")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{told}");
    let (_, after_first) = told.split_once("step 1 is done").unwrap();
    let last = format!("step {STEPS} is done");
    let (loops, after_last) = after_first.split_once(&last).unwrap();
    let read = |text: &str| {
        text.lines()
            .filter(|line| line.starts_with("to the host: "))
            .count()
    };
    assert!(loops.contains("blocks of"), "no kernels were launched");
    assert_eq!(read(loops), 0, "{loops}");
    assert!(read(after_last) > 0, "the results came from nowhere");
}

#[test]
#[ignore = "for none_between_steps"]
fn a_run_to_watch() {
    let device = Default::default();
    let folder = i2vgen_demo_model::folder();
    let pipeline =
        I2VGenXLPipeline::<TestBackend>::from_folder(folder, None, DType::F32, &device).unwrap();
    let image = decode_image(i2vgen_demo_model::IMAGE, "IMAGE").unwrap();
    let options = GenerateOptions {
        height: 64,
        width: 64,
        num_frames: 4,
        num_inference_steps: STEPS,
        guidance_scale: 2.5,
        guidance_rescale: 0.5,
        seed: Some(8888),
        ..Default::default()
    };
    let prompt = i2vgen_demo_model::PROMPT;
    let run = pipeline.run(&image, prompt, &options, |event| {
        if let Event::Step { done, .. } = event {
            // At once: the driver writes, too.
            let line = format!("step {done} is done\n");
            eprint!("{line}");
        }
        ControlFlow::Continue(())
    });
    run.unwrap();
}
