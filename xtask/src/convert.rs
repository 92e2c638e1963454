//! `cargo xtask convert`: parsing and printing; the work is in `weights-converter`.

use std::{error::Error, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use i2vgen_weights_converter::{Component, Options, Plan, Source, convert_component, read_config};
use indicatif::{ProgressBar, ProgressStyle};
use safetensors::Dtype;

#[derive(Subcommand)]
pub(crate) enum Convert {
    /// One weight file (.pth .pt .ckpt .bin .safetensors) becomes one component folder
    File(File),
}

#[derive(Args)]
pub(crate) struct File {
    /// The weight file
    file: PathBuf,
    /// Which component to take; told from the tensor names if the file holds only one
    #[arg(long)]
    component: Option<ComponentArg>,
    /// A diffusers folder whose configs describe a model of another than the published size
    #[arg(long, value_name = "DIR")]
    configs: Option<PathBuf>,
    /// The new component folder
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Number format of the result
    #[arg(long, default_value = "keep")]
    dtype: DtypeArg,
    /// Largest weight file, for example 5GB; one file if left out
    #[arg(long, value_parser = size, value_name = "SIZE")]
    shard_size: Option<u64>,
    /// Whether the authors' doubled image features are folded into conv_in
    #[arg(long, default_value = "keep")]
    concat_gain: Gain,
    /// Print what would be done, write nothing
    #[arg(long)]
    dry_run: bool,
    /// Replace the output folder if it exists
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum ComponentArg {
    Unet,
    Unet3d,
    Vae,
    TextEncoder,
    ImageEncoder,
}

#[derive(Clone, Copy, ValueEnum)]
enum DtypeArg {
    F32,
    F16,
    Bf16,
    Keep,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Gain {
    Keep,
    Fold,
}

/// `5GB`, `200MB`, `1000`: decimal units, as diffusers counts.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err("write a size such as 5GB or 500MB".into()),
    };
    let number = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    number
        .filter(|n| *n > 0)
        .ok_or_else(|| "write a size such as 5GB or 500MB".into())
}

impl Convert {
    pub(crate) fn run(self) -> Result<(), Box<dyn Error>> {
        let Self::File(args) = self;
        args.run()
    }
}

impl File {
    fn run(self) -> Result<(), Box<dyn Error>> {
        let source = Source::open(&self.file)?;
        let component = match (self.component, source.components().as_slice()) {
            (Some(component), _) => component.into(),
            (None, [one]) => *one,
            (None, []) => {
                let keys: Vec<&str> = source.tensors.keys().take(3).map(String::as_str).collect();
                let file = self.file.display();
                return Err(format!(
                    "'{file}' holds no component of this model; its tensors are called {} …",
                    keys.join(", ")
                )
                .into());
            }
            (None, several) => {
                let names: Vec<&str> = several.iter().map(|c| c.folder()).collect();
                let (file, names) = (self.file.display(), names.join(", "));
                return Err(format!("'{file}' holds {names}; choose one with --component").into());
            }
        };
        let config = read_config(component, self.configs.as_deref())?;
        let sources = [source];
        let mut plan = Plan::new(component, &sources, &config)?;
        let options = Options {
            dtype: match self.dtype {
                DtypeArg::F32 => Some(Dtype::F32),
                DtypeArg::F16 => Some(Dtype::F16),
                DtypeArg::Bf16 => Some(Dtype::BF16),
                DtypeArg::Keep => None,
            },
            shard_size: self.shard_size,
            fold_concat_gain: self.concat_gain == Gain::Fold,
            force: self.force,
        };
        if self.dry_run {
            if options.fold_concat_gain {
                plan.fold_concat_gain(&config);
            }
            for e in &plan.entries {
                let (from, how) = (e.source_dtype(), e.transform);
                println!(
                    "{} -> {}  {:?}  {from:?}  {how:?}",
                    e.source, e.target, e.shape
                );
            }
            return Ok(());
        }
        let wide = options.dtype.map(|d| if d == Dtype::F32 { 4 } else { 2 });
        let bytes = |e: &i2vgen_weights_converter::Entry| {
            let size = wide.unwrap_or(e.source_dtype().bitsize() / 8);
            (e.shape.iter().product::<usize>() * size) as u64
        };
        let bar = ProgressBar::new(plan.entries.iter().map(bytes).sum());
        bar.set_style(ProgressStyle::with_template(
            "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        )?);
        convert_component(&plan, &config, &sources, &self.output, &options, &mut |n| {
            bar.inc(n)
        })?;
        bar.finish_and_clear();
        let (count, parameters) = (plan.entries.len(), plan.parameters());
        let (folder, output) = (component.folder(), self.output.display());
        println!("{folder}: {count} tensors, {parameters} parameters in {output}");
        Ok(())
    }
}

impl From<ComponentArg> for Component {
    fn from(arg: ComponentArg) -> Self {
        match arg {
            ComponentArg::Unet => Self::Unet,
            ComponentArg::Unet3d => Self::Unet3d,
            ComponentArg::Vae => Self::Vae,
            ComponentArg::TextEncoder => Self::TextEncoder,
            ComponentArg::ImageEncoder => Self::ImageEncoder,
        }
    }
}
