use serde::{Deserialize, Serialize};

use crate::{UNetError, levels::Levels};

/// `unet/config.json`, with diffusers' names and defaults.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
pub struct I2VGenXLUNetConfig {
    /// Latent side of training; only a default for the output size.
    pub sample_size: Option<usize>,
    /// Channels of the noise and of the image latents, and the number of global image tokens.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// `CrossAttnDownBlock3D` or `DownBlock3D` per level, outermost first.
    pub down_block_types: Vec<String>,
    /// `UpBlock3D` or `CrossAttnUpBlock3D` per level, innermost first.
    pub up_block_types: Vec<String>,
    /// Widths of the levels, outermost first.
    pub block_out_channels: Vec<usize>,
    /// Layers per down level; an up level has one more.
    pub layers_per_block: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Width of the context tokens.
    pub cross_attention_dim: usize,
    /// Channels per attention head, for all levels or per level.
    pub attention_head_dim: Option<PerLevel>,
    /// What diffusers before 0.27 called the channels per head; ignored when `attention_head_dim` is there.
    pub num_attention_heads: Option<PerLevel>,
}

/// One number for all levels, or one per level.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(untagged)]
pub enum PerLevel {
    /// The same everywhere.
    All(usize),
    /// Outermost level first.
    Each(Vec<usize>),
}

impl Default for I2VGenXLUNetConfig {
    fn default() -> Self {
        let cross = "CrossAttnDownBlock3D";
        let up = "CrossAttnUpBlock3D";
        let names = |list: [&str; 4]| list.map(String::from).to_vec();
        Self {
            sample_size: None,
            in_channels: 4,
            out_channels: 4,
            down_block_types: names([cross, cross, cross, "DownBlock3D"]),
            up_block_types: names(["UpBlock3D", up, up, up]),
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: 2,
            norm_num_groups: 32,
            cross_attention_dim: 1024,
            attention_head_dim: None,
            num_attention_heads: None,
        }
    }
}

impl I2VGenXLUNetConfig {
    /// Width of the time embedding.
    pub fn time_embed_dim(&self) -> usize {
        self.block_out_channels[0] * 4
    }

    /// Channels per head of each level, outermost first.
    pub fn head_dims(&self) -> Vec<usize> {
        self.levels().head_dims()
    }

    pub(crate) fn levels(&self) -> Levels<'_> {
        let head_dim = self.attention_head_dim.as_ref();
        Levels {
            down_block_types: &self.down_block_types,
            up_block_types: &self.up_block_types,
            block_out_channels: &self.block_out_channels,
            layers_per_block: self.layers_per_block,
            norm_num_groups: self.norm_num_groups,
            cross_attention_dim: self.cross_attention_dim,
            head_dim: head_dim.or(self.num_attention_heads.as_ref()),
        }
    }

    /// Refuses what the modules are not built for.
    ///
    /// # Errors
    /// If the config contradicts itself or names unknown blocks.
    pub fn check(&self) -> Result<(), UNetError> {
        self.levels().check()?;
        // The published layers that read image latents are built for four channels whatever the config says.
        if self.in_channels != 4 || self.out_channels == 0 || self.cross_attention_dim == 0 {
            return Err(UNetError::Config(
                "in_channels must be 4, out_channels and cross_attention_dim at least 1".into(),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> I2VGenXLUNetConfig {
        serde_json::from_str(json).expect("valid")
    }

    #[test]
    fn head_width_from_the_new_or_the_old_field() {
        assert_eq!(parse("{}").head_dims(), [64; 4]);
        assert_eq!(parse(r#"{"num_attention_heads": 32}"#).head_dims(), [32; 4]);
        let both = r#"{"num_attention_heads": 32, "attention_head_dim": 16}"#;
        assert_eq!(parse(both).head_dims(), [16; 4]);
        let null = r#"{"num_attention_heads": 8, "attention_head_dim": null}"#;
        assert_eq!(parse(null).head_dims(), [8; 4]);
        let list = r#"{"attention_head_dim": [5, 10, 20, 20]}"#;
        assert_eq!(parse(list).head_dims(), [5, 10, 20, 20]);
    }

    #[test]
    fn refuses_what_cannot_be_built() {
        for json in [
            r#"{"block_out_channels": []}"#,
            r#"{"block_out_channels": [320, 640]}"#,
            r#"{"norm_num_groups": 0}"#,
            r#"{"norm_num_groups": 7}"#,
            r#"{"attention_head_dim": 0}"#,
            r#"{"attention_head_dim": [64]}"#,
            r#"{"attention_head_dim": 4096}"#,
            r#"{"in_channels": 9}"#,
            r#"{"layers_per_block": 0}"#,
            r#"{"up_block_types": ["UpBlock2D", "UpBlock3D", "UpBlock3D", "UpBlock3D"]}"#,
        ] {
            assert!(parse(json).check().is_err(), "{json}");
        }
        parse("{}").check().expect("the published config");
    }
}
