//! The values of single settings, as they are typed.

use std::{path::PathBuf, str::FromStr};

use burn::tensor::DType;
use clap::ValueEnum;
use i2vgen_pipeline::{Compat, GifDither, GifPalette, ImageLatents, Lora, OutputType};
use serde::{Deserialize, Serialize};

#[derive(ValueEnum, Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ImageLatentsArg {
    #[default]
    Sample,
    Mode,
}

impl From<ImageLatentsArg> for ImageLatents {
    fn from(value: ImageLatentsArg) -> Self {
        match value {
            ImageLatentsArg::Sample => Self::Sample,
            ImageLatentsArg::Mode => Self::Mode,
        }
    }
}

#[derive(ValueEnum, Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CompatArg {
    #[default]
    Corrected,
    Diffusers,
    Vgen,
}

impl From<CompatArg> for Compat {
    fn from(value: CompatArg) -> Self {
        match value {
            CompatArg::Corrected => Self::Corrected,
            CompatArg::Diffusers => Self::Diffusers,
            CompatArg::Vgen => Self::VGen,
        }
    }
}

#[derive(ValueEnum, Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DtypeArg {
    #[default]
    F32,
    F16,
    Bf16,
}

impl From<DtypeArg> for DType {
    fn from(arg: DtypeArg) -> Self {
        match arg {
            DtypeArg::F32 => Self::F32,
            DtypeArg::F16 => Self::F16,
            DtypeArg::Bf16 => Self::BF16,
        }
    }
}

#[derive(ValueEnum, Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum MemoryArg {
    #[default]
    Normal,
    Low,
    Min,
}

#[derive(ValueEnum, Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OutputTypeArg {
    #[default]
    Video,
    Latent,
}

impl From<OutputTypeArg> for OutputType {
    fn from(value: OutputTypeArg) -> Self {
        match value {
            OutputTypeArg::Video => Self::Video,
            OutputTypeArg::Latent => Self::Latent,
        }
    }
}

#[derive(ValueEnum, Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum GifPaletteArg {
    PerFrame,
    #[default]
    Global,
}

impl From<GifPaletteArg> for GifPalette {
    fn from(value: GifPaletteArg) -> Self {
        match value {
            GifPaletteArg::PerFrame => Self::PerFrame,
            GifPaletteArg::Global => Self::Global,
        }
    }
}

#[derive(ValueEnum, Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum GifDitherArg {
    None,
    #[default]
    FloydSteinberg,
}

impl From<GifDitherArg> for GifDither {
    fn from(value: GifDitherArg) -> Self {
        match value {
            GifDitherArg::None => Self::None,
            GifDitherArg::FloydSteinberg => Self::FloydSteinberg,
        }
    }
}

/// `FILE[:STRENGTH]`
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct LoraFile {
    pub(crate) path: PathBuf,
    pub(crate) strength: f32,
}

impl FromStr for LoraFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, strength) = Lora::parse_argument(text)?;
        match path.as_os_str().is_empty() {
            true => Err("there is no file; write FILE or FILE:STRENGTH".to_owned()),
            false => Ok(Self { path, strength }),
        }
    }
}

impl TryFrom<String> for LoraFile {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<LoraFile> for String {
    fn from(lora: LoraFile) -> Self {
        format!("{}:{}", lora.path.display(), lora.strength)
    }
}

pub(crate) fn parse_freeu(text: &str) -> Result<[f64; 4], String> {
    let numbers: Result<Vec<f64>, _> = text.split(',').map(|n| n.trim().parse()).collect();
    let four = numbers.ok().and_then(|n| <[f64; 4]>::try_from(n).ok());
    four.ok_or_else(|| "must be four numbers, like 0.9,0.2,1.4,1.6".to_owned())
}
