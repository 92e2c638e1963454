//! `i2vgen`: a picture and a sentence become a video.

mod args;
mod batch;
mod choices;
mod completions;
mod continuation;
mod device;
mod failure;
mod generate;
mod inspect;
mod job;
mod layers;
mod model;
mod options;
mod progress;
mod pull;
mod refine;
mod second_stage;
mod session;
mod settings;
mod sidecar;
mod staging;
mod tensors;
mod usage;
mod warmup;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage::tell(&error),
    };
    let outcome = match cli.command {
        Command::Demo(args) => generate::demo(args),
        Command::Generate(args) => generate::generate(*args),
        Command::Batch(args) => batch::batch(*args),
        Command::Refine(args) => refine::refine(*args),
        Command::Pull(args) => pull::pull(args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Warmup(args) => warmup::warmup(args),
        Command::Devices => {
            device::devices();
            Ok(())
        }
        Command::Completions(args) => completions::completions(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit_code()
        }
    }
}
