//! Repository tasks: `cargo xtask convert …`, `cargo xtask inspect …`.

mod convert;
mod inspect;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Repository tasks")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// PyTorch checkpoints become diffusers folders of safetensors
    #[command(subcommand)]
    Convert(convert::Convert),
    /// What a checkpoint file holds
    Inspect(inspect::Inspect),
}

fn main() -> ExitCode {
    let result = match Args::parse().task {
        Task::Convert(task) => task.run(),
        Task::Inspect(task) => task.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
