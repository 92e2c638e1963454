//! Repository tasks: `cargo xtask convert …`, `inspect …`, `import-onnx …`, `bench …`.

mod bench;
mod convert;
mod import_onnx;
mod inspect;

use std::process::ExitCode;

use clap::{Parser, Subcommand, error::ErrorKind};

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
    /// How fast the kernels are on this machine
    #[command(subcommand)]
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    let task = match Args::try_parse() {
        Ok(args) => args.task,
        Err(error) if error.use_stderr() && !is_help(error.kind()) => {
            eprintln!("{}", one_line(&error));
            return ExitCode::from(2);
        }
        Err(error) => error.exit(),
    };
    let result = match task {
        Task::Convert(task) => task.run(),
        Task::Inspect(task) => task.run(),
        Task::ImportOnnx(task) => task.run(),
        Task::Bench(task) => task.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// A command without its subcommand: clap shows what there is.
fn is_help(kind: ErrorKind) -> bool {
    kind == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

/// clap's message without the usage behind it, as all other errors look.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let end = ["\nUsage:", "\nFor more information"].map(|part| text.find(part));
    let end = end.into_iter().flatten().min().unwrap_or(text.len());
    text[..end].split_whitespace().collect::<Vec<_>>().join(" ")
}
