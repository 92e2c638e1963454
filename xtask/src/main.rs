//! Repository tasks: `cargo xtask convert …`, `inspect …`, `import-onnx …`.

mod convert;
mod import_onnx;
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
    /// What a model folder or a weight file holds, and what is wrong with it
    Inspect(inspect::Inspect),
    /// An ONNX file becomes a burn module and its weights
    ImportOnnx(import_onnx::ImportOnnx),
}

fn main() -> ExitCode {
    let result = match Args::parse().task {
        Task::Convert(task) => task.run(),
        Task::Inspect(task) => task.run(),
        Task::ImportOnnx(task) => task.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
