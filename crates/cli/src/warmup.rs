//! `i2vgen warmup`: computes what a video needs once, and tests it.

use std::{ops::ControlFlow, time::Instant};

use burn::tensor::{DType, backend::Backend};
use i2vgen_kernels::{Operation, check, trace};
use i2vgen_pipeline::GenerateOptions;
use image::RgbImage;

use crate::{
    args::WarmupArgs,
    device::{Task, dispatch},
    failure::Failure,
    model::Model,
    settings::Settings,
};

/// Every precision of a check, with the largest difference that is still right.
const LIMITS: [(DType, &str, f64); 2] = [(DType::F32, "f32", 1e-4), (DType::F16, "f16", 2e-2)];

pub(crate) fn warmup(args: WarmupArgs) -> Result<(), Failure> {
    let settings = Settings {
        model: Some(args.model),
        variant: args.variant,
        device: Some(args.device),
        ..Settings::default()
    };
    let model = Model::open(&settings, false, args.quiet)?;
    let device = model.device.clone();
    let options = GenerateOptions {
        height: args.height,
        width: args.width,
        num_frames: args.num_frames,
        num_inference_steps: 1,
        seed: Some(0),
        ..GenerateOptions::default()
    };
    let (check, quiet) = (args.check, args.quiet);
    let task = Warmup {
        model,
        options,
        check,
        quiet,
    };
    dispatch(&device, task)
}

struct Warmup {
    model: Model,
    options: GenerateOptions,
    check: bool,
    quiet: bool,
}

impl Task for Warmup {
    fn run<B: Backend>(self, device: &B::Device) -> Result<(), Failure> {
        let tell = |text: String| {
            if !self.quiet {
                eprintln!("{text}");
            }
        };
        let pipeline = self.model.pipeline::<B>(device)?;
        let image = RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8 * 4, y as u8 * 4, 90]));
        let run = || {
            let start = Instant::now();
            let outcome =
                pipeline.run(
                    &image,
                    "a cat",
                    &self.options,
                    |_| ControlFlow::Continue(()),
                );
            (outcome.map(drop), start.elapsed().as_secs_f64())
        };
        let ((outcome, seconds), operations) = trace(run);
        // A wrong operation may be why the run failed, so it is named first.
        if self.check && !operations.is_empty() {
            verify::<B>(&operations, device, tell)?;
        }
        outcome?;
        if self.model.device == "cpu" {
            tell(format!("ready after {seconds:.1} s"));
            return Ok(());
        }
        let (outcome, again) = run();
        outcome?;
        let first = (seconds - again).max(0.0);
        tell(format!(
            "ready after {seconds:.1} s, of which {first:.1} s were compiling and tuning (a second run takes {again:.1} s)"
        ));
        Ok(())
    }
}

fn verify<B: Backend>(
    operations: &[Operation],
    device: &B::Device,
    tell: impl Fn(String),
) -> Result<(), Failure> {
    let (mut failed, mut total) = (0, 0);
    for (dtype, name, limit) in LIMITS {
        if !B::supports_dtype(device, dtype) {
            tell(format!("{name} is not computed on this device"));
            continue;
        }
        let mut worst = 0.0_f64;
        for operation in operations {
            let off = check::<B>(operation, dtype, device);
            total += 1;
            worst = worst.max(off);
            // Not `off > limit`: NaN is wrong, too.
            let right = off <= limit;
            if !right {
                failed += 1;
                println!("{name} {operation:?}: off by {off:.1e} of the largest result");
            }
        }
        let count = operations.len();
        tell(format!(
            "{name}: {count} shapes, off by {worst:.1e} at most (allowed {limit:.0e})"
        ));
    }
    match failed {
        0 => Ok(()),
        _ => Err(Failure::Check { failed, total }),
    }
}
