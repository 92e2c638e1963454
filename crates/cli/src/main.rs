//! `i2vgen`: a picture and a sentence become a video.

mod args;
mod failure;
mod inspect;
mod progress;
mod run;
mod sidecar;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Demo(args) => run::demo(&args),
        Command::Generate(args) => run::generate(&args),
        Command::Inspect(args) => inspect::inspect(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit_code()
        }
    }
}
