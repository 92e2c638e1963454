use serde_json::Value;

use crate::{ConvertError, layout};

/// A part of the pipeline that has weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Component {
    /// `I2VGenXLUNet`.
    Unet,
    /// `UNet3DConditionModel` (the refinement stage).
    Unet3d,
    /// `AutoencoderKL`.
    Vae,
    /// `CLIPTextModel`.
    TextEncoder,
    /// `CLIPVisionModelWithProjection`.
    ImageEncoder,
}

impl Component {
    /// All, in the order in which they are told from names.
    pub const ALL: [Self; 5] = [
        Self::Unet,
        Self::Unet3d,
        Self::Vae,
        Self::TextEncoder,
        Self::ImageEncoder,
    ];

    /// Its folder in a pipeline folder.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Unet | Self::Unet3d => "unet",
            Self::Vae => "vae",
            Self::TextEncoder => "text_encoder",
            Self::ImageEncoder => "image_encoder",
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unet => "unet",
            Self::Unet3d => "unet3d",
            Self::Vae => "vae",
            Self::TextEncoder => "text-encoder",
            Self::ImageEncoder => "image-encoder",
        }
    }

    /// Its class in diffusers or transformers.
    pub fn class(self) -> &'static str {
        match self {
            Self::Unet => "I2VGenXLUNet",
            Self::Unet3d => "UNet3DConditionModel",
            Self::Vae => "AutoencoderKL",
            Self::TextEncoder => "CLIPTextModel",
            Self::ImageEncoder => "CLIPVisionModelWithProjection",
        }
    }

    /// How its weight file is called, without ending.
    pub fn stem(self) -> &'static str {
        match self {
            Self::Unet | Self::Unet3d | Self::Vae => "diffusion_pytorch_model",
            Self::TextEncoder | Self::ImageEncoder => "model",
        }
    }

    /// The config of the published model.
    pub fn published_config(self) -> &'static str {
        match self {
            Self::Unet => include_str!("configs/unet.json"),
            Self::Unet3d => include_str!("configs/unet3d.json"),
            Self::Vae => include_str!("configs/vae.json"),
            Self::TextEncoder => include_str!("configs/text_encoder.json"),
            Self::ImageEncoder => include_str!("configs/image_encoder.json"),
        }
    }

    /// Names and shapes of all tensors of this component.
    ///
    /// # Errors
    /// If the config lacks a field or has one of another type.
    pub fn layout(self, config: &Value) -> Result<layout::Keys, ConvertError> {
        let keys = match self {
            Self::Unet => layout::unet(config, true),
            Self::Unet3d => layout::unet(config, false),
            Self::Vae => layout::vae(config),
            Self::TextEncoder => layout::clip_text(config),
            Self::ImageEncoder => layout::clip_vision(config),
        };
        keys.ok_or_else(|| ConvertError::Config {
            component: self.folder().to_owned(),
            reason: "a size is missing or is not a number; check its config.json".to_owned(),
        })
    }
}
