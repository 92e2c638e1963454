//! `cargo xtask import-onnx`: an ONNX file becomes a burn module and its weights, through `burn-onnx`.
//!
//! `burn-onnx` needs all of burn, and the other subcommands should not wait for that: it is behind the feature `onnx`, and without
//! it this subcommand starts cargo again with it.

use std::{error::Error, path::PathBuf};

use clap::Args;

#[derive(Args)]
pub(crate) struct ImportOnnx {
    /// The ONNX file
    file: PathBuf,
    /// The new folder, for NAME.rs and NAME.bpk (NAME is the file's)
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Replace the output folder if it exists
    #[arg(long)]
    force: bool,
}

#[cfg(not(feature = "onnx"))]
impl ImportOnnx {
    pub(crate) fn run(self) -> Result<(), Box<dyn Error>> {
        eprintln!("starting the importer (built once, a few minutes)");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = std::process::Command::new(cargo);
        command
            .args([
                "run",
                "--quiet",
                "--release",
                "--features",
                "onnx",
                "--manifest-path",
            ])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
            .args(["--", "import-onnx"])
            .arg(self.file)
            .arg("--output")
            .arg(self.output);
        if self.force {
            command.arg("--force");
        }
        let status = command.status()?;
        // The inner program has told what was wrong.
        std::process::exit(status.code().unwrap_or(2));
    }
}

#[cfg(feature = "onnx")]
impl ImportOnnx {
    pub(crate) fn run(self) -> Result<(), Box<dyn Error>> {
        let (shown, output) = (self.file.display(), self.output.display());
        let bytes = std::fs::read(&self.file).map_err(|e| format!("cannot read '{shown}': {e}"))?;
        if bytes.trim_ascii_start().starts_with(b"<")
            || bytes.starts_with(b"PK")
            || bytes.is_empty()
        {
            return Err(format!(
                "'{shown}' is not an ONNX file; export one with torch.onnx.export"
            )
            .into());
        }
        let Some(stem) = self.file.file_stem().and_then(|s| s.to_str()) else {
            return Err(format!("'{shown}' has no name that a Rust module could have").into());
        };
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !stem.chars().all(word) || stem.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(format!(
                "'{stem}' cannot be a Rust module; rename the file to letters, digits and _"
            )
            .into());
        }
        if self.output.exists() && !self.force {
            return Err(
                format!("'{output}' exists; choose another --output or add --force").into(),
            );
        }
        if self
            .file
            .canonicalize()?
            .starts_with(self.output.canonicalize().unwrap_or(".nowhere".into()))
        {
            return Err(format!("--output '{output}' would overwrite the source '{shown}'").into());
        }
        let parent = self.output.parent().filter(|p| !p.as_os_str().is_empty());
        let parent = parent.map_or_else(|| PathBuf::from("."), PathBuf::from);
        std::fs::create_dir_all(&parent)?;
        let work = tempfile::Builder::new()
            .prefix(".import-onnx-")
            .tempdir_in(&parent)?;
        let folder = work.path().join("module");
        generate(&self.file, &folder)?;
        if self.output.exists() {
            std::fs::remove_dir_all(&self.output)?;
        }
        std::fs::rename(&folder, &self.output)?;
        println!(
            "{output}/{stem}.rs and {stem}.bpk: Model::from_bytes(burn::tensor::Bytes, &device)"
        );
        Ok(())
    }
}

/// Runs `burn-onnx`, which panics on what it does not like.
#[cfg(feature = "onnx")]
fn generate(file: &std::path::Path, folder: &std::path::Path) -> Result<(), Box<dyn Error>> {
    let Some(out) = folder.to_str() else {
        return Err("the output folder's name is not Unicode".into());
    };
    let Some(input) = file.to_str() else {
        return Err("the file's name is not Unicode".into());
    };
    // It logs every step to stdout unless somebody else has taken the place of the logger.
    let _ = tracing::subscriber::set_global_default(tracing::subscriber::NoSubscriber::new());
    let silent = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = std::panic::catch_unwind(|| {
        burn_onnx::ModelGen::new()
            .input(input)
            .out_dir(out)
            .load_strategy(burn_onnx::LoadStrategy::Bytes)
            .run_from_cli();
    });
    std::panic::set_hook(silent);
    result.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        let line = text
            .unwrap_or("no reason given")
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        format!("'{input}' cannot be imported: {line}").into()
    })
}
