//! `cargo xtask convert`: parsing and printing; the work is in `weights-converter`.

use std::{error::Error, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use i2vgen_weights_converter::{
    Component, Conversion, Lora, Options, Plan, Source, Trio, read_config,
};
use indicatif::{ProgressBar, ProgressStyle};
use safetensors::Dtype;

#[derive(Subcommand)]
pub(crate) enum Convert {
    /// The authors' three files become one diffusers folder
    Trio {
        /// The UNet: i2vgen_xl_00854500.pth
        #[arg(long, value_name = "FILE")]
        unet: Option<PathBuf>,
        /// The VAE: v2-1_512-ema-pruned.ckpt
        #[arg(long, value_name = "FILE")]
        vae: Option<PathBuf>,
        /// Both CLIP towers: open_clip_pytorch_model.bin
        #[arg(long, value_name = "FILE")]
        clip: Option<PathBuf>,
        /// A diffusers folder whose configs and tokenizer describe a model of another than the published size
        #[arg(long, value_name = "DIR")]
        configs: Option<PathBuf>,
        /// Only these components (comma-separated)
        #[arg(long, value_delimiter = ',')]
        only: Vec<ComponentArg>,
        #[command(flatten)]
        common: Common,
    },
    /// A diffusers folder with pickles (.bin), shards or variants becomes one of plain safetensors
    Folder {
        /// The folder
        dir: PathBuf,
        /// Prefer files of this variant, for example fp16
        #[arg(long)]
        variant: Option<String>,
        /// Only these components (comma-separated)
        #[arg(long, value_delimiter = ',')]
        only: Vec<ComponentArg>,
        #[command(flatten)]
        common: Common,
    },
    /// One weight file (.pth .pt .ckpt .bin .safetensors) becomes one component folder
    File {
        /// The weight file
        file: PathBuf,
        /// Which component to take; told from the tensor names if the file holds only one
        #[arg(long)]
        component: Option<ComponentArg>,
        /// A diffusers folder whose configs describe a model of another than the published size
        #[arg(long, value_name = "DIR")]
        configs: Option<PathBuf>,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Args)]
pub(crate) struct Common {
    /// The new folder
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Number format of the result
    #[arg(long, default_value = "keep")]
    dtype: DtypeArg,
    /// A LoRA to merge, with its strength (1 if left out); may be given several times
    #[arg(long, value_name = "FILE[:STRENGTH]")]
    lora: Vec<String>,
    /// Leave out LoRA keys that fit nowhere, instead of failing
    #[arg(long, requires = "lora")]
    allow_unknown: bool,
    /// Largest weight file, for example 5GB; one file if left out
    #[arg(long, value_parser = size, value_name = "SIZE")]
    shard_size: Option<u64>,
    /// burnpack additionally writes burn's own format (.bpk)
    #[arg(long, default_value = "safetensors")]
    to: Format,
    /// Whether the authors' doubled image features are folded into conv_in
    #[arg(long, default_value = "keep")]
    concat_gain: Gain,
    /// Print what would be done, write nothing
    #[arg(long)]
    dry_run: bool,
    /// Replace the output folder if it exists
    #[arg(long)]
    force: bool,
    /// Print JSON: the manifest, or with --dry-run the mapping
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum ComponentArg {
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
enum Format {
    Safetensors,
    Burnpack,
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
        match self {
            Self::Trio {
                unet,
                vae,
                clip,
                configs,
                only,
                common,
            } => {
                let only = components(only);
                let files = Trio { unet, vae, clip };
                common.run(Conversion::trio(
                    &files,
                    configs.as_deref(),
                    only.as_deref(),
                )?)
            }
            Self::Folder {
                dir,
                variant,
                only,
                common,
            } => {
                let only = components(only);
                common.run(Conversion::folder(
                    &dir,
                    variant.as_deref(),
                    only.as_deref(),
                )?)
            }
            Self::File {
                file,
                component,
                configs,
                common,
            } => {
                let source = Source::open(&file)?;
                let component = match component {
                    Some(component) => component.into(),
                    None => source.component()?,
                };
                let config = read_config(component, configs.as_deref())?;
                let plan = Plan::new(component, &[source], &config)?;
                let mut conversion = Conversion::component(plan);
                if let Some(configs) = &configs {
                    conversion.protect(configs);
                }
                common.run(conversion)
            }
        }
    }
}

/// What `--only` names; none is all.
fn components(only: Vec<ComponentArg>) -> Option<Vec<Component>> {
    (!only.is_empty()).then(|| only.into_iter().map(Component::from).collect())
}

impl Common {
    fn run(self, mut conversion: Conversion) -> Result<(), Box<dyn Error>> {
        let options = Options {
            dtype: match self.dtype {
                DtypeArg::F32 => Some(Dtype::F32),
                DtypeArg::F16 => Some(Dtype::F16),
                DtypeArg::Bf16 => Some(Dtype::BF16),
                DtypeArg::Keep => None,
            },
            shard_size: self.shard_size,
            burnpack: self.to == Format::Burnpack,
            fold_concat_gain: self.concat_gain == Gain::Fold,
            force: self.force,
        };
        for lora in &self.lora {
            let (path, strength) = Lora::parse_argument(lora)?;
            let skipped = conversion.merge(&Lora::open(&path, strength)?, self.allow_unknown)?;
            for key in skipped {
                eprintln!("left out of {}: {key}", path.display());
            }
        }
        if self.dry_run {
            return self.dry_run(conversion, &options);
        }
        let bar = ProgressBar::new(conversion.bytes(&options));
        bar.set_style(ProgressStyle::with_template(
            "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        )?);
        let manifest = conversion.write(&self.output, &options, &mut |n| bar.inc(n))?;
        bar.finish_and_clear();
        if self.json {
            println!("{manifest:#}");
            return Ok(());
        }
        for (name, part) in manifest["components"].as_object().into_iter().flatten() {
            println!(
                "{name:<14} {} tensors, {} parameters",
                part["tensors"], part["parameters"]
            );
        }
        println!("written to {}", self.output.display());
        Ok(())
    }

    fn dry_run(self, mut conversion: Conversion, options: &Options) -> Result<(), Box<dyn Error>> {
        if options.fold_concat_gain {
            conversion.fold_concat_gain()?;
        }
        let entries = || {
            conversion
                .plans
                .iter()
                .flat_map(|p| p.entries.iter().map(move |e| (p.component, e)))
        };
        if self.json {
            let rows: Vec<_> = entries()
                .map(|(component, e)| {
                    serde_json::json!({
                        "component": component.name(),
                        "source": e.source,
                        "target": e.target,
                        "shape": e.shape,
                        "dtype": format!("{:?}", e.source_dtype()),
                        "transform": e.transform,
                    })
                })
                .collect();
            println!("{:#}", serde_json::Value::from(rows));
            return Ok(());
        }
        let width = entries().map(|(_, e)| e.source.len()).max().unwrap_or(0);
        for (component, e) in entries() {
            let target = format!("{}/{}", component.folder(), e.target);
            let (from, how) = (e.source_dtype(), e.transform);
            println!(
                "{:<width$}  {target}  {:?}  {from:?}  {how:?}",
                e.source, e.shape
            );
        }
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
