use serde::{Deserialize, Serialize};

use crate::VaeError;

/// `vae/config.json`, with diffusers' names and defaults.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
pub struct AutoencoderKLConfig {
    /// Image channels.
    pub in_channels: usize,
    /// Image channels of the decoder.
    pub out_channels: usize,
    /// Latent channels.
    pub latent_channels: usize,
    /// Widths of the levels, outermost first.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per encoder level; the decoder has one more.
    pub layers_per_block: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Only `silu` (or its other name `swish`) is known.
    pub act_fn: String,
    /// Encoder level classes.
    pub down_block_types: Vec<String>,
    /// Decoder level classes.
    pub up_block_types: Vec<String>,
    /// Image side of training; sets the tile size.
    pub sample_size: usize,
    /// Latents are multiplied by this after encoding.
    pub scaling_factor: f64,
    /// Whether half precision overflows; kept for saving, not used.
    pub force_upcast: bool,
    /// Whether the middle block has attention.
    pub mid_block_add_attention: bool,
    /// Whether the encoder ends with a 1×1 convolution.
    pub use_quant_conv: bool,
    /// Whether the decoder starts with a 1×1 convolution.
    pub use_post_quant_conv: bool,
}

impl Default for AutoencoderKLConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            latent_channels: 4,
            block_out_channels: vec![64],
            layers_per_block: 1,
            norm_num_groups: 32,
            act_fn: "silu".into(),
            down_block_types: vec!["DownEncoderBlock2D".into()],
            up_block_types: vec!["UpDecoderBlock2D".into()],
            sample_size: 32,
            scaling_factor: 0.18215,
            force_upcast: true,
            mid_block_add_attention: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
        }
    }
}

impl AutoencoderKLConfig {
    /// Pixels per latent in each direction.
    pub fn scale_factor(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }

    /// Refuses what the modules below are not built for.
    ///
    /// # Errors
    /// If the config contradicts itself or names unknown blocks.
    pub fn check(&self) -> Result<(), VaeError> {
        let fail = |text: String| Err(VaeError::Config(text));
        let levels = self.block_out_channels.len();
        if levels == 0 || self.layers_per_block == 0 {
            return fail(
                "block_out_channels and layers_per_block must not be empty or zero".into(),
            );
        }
        if self.down_block_types.len() != levels || self.up_block_types.len() != levels {
            return fail(format!(
                "block_out_channels has {levels} levels, but down_block_types {} and up_block_types {}",
                self.down_block_types.len(),
                self.up_block_types.len()
            ));
        }
        let unknown = self
            .down_block_types
            .iter()
            .filter(|t| *t != "DownEncoderBlock2D")
            .chain(
                self.up_block_types
                    .iter()
                    .filter(|t| *t != "UpDecoderBlock2D"),
            )
            .next();
        if let Some(unknown) = unknown {
            return fail(format!(
                "block type '{unknown}' is not supported; supported are DownEncoderBlock2D and UpDecoderBlock2D"
            ));
        }
        if self.act_fn != "silu" && self.act_fn != "swish" {
            return fail(format!(
                "act_fn '{}' is not supported; supported is silu",
                self.act_fn
            ));
        }
        let groups = self.norm_num_groups;
        if groups == 0
            || self
                .block_out_channels
                .iter()
                .any(|c| *c == 0 || c % groups != 0)
        {
            return fail(format!(
                "every width in block_out_channels {:?} must be a multiple of norm_num_groups {groups}",
                self.block_out_channels
            ));
        }
        Ok(())
    }
}
