use serde::{Deserialize, Serialize};

use crate::UNetError;

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

/// Channels per head where a config names none.
const DEFAULT_HEAD_DIM: usize = 64;

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
        let levels = self.block_out_channels.len();
        let named = self
            .attention_head_dim
            .as_ref()
            .or(self.num_attention_heads.as_ref());
        match named {
            Some(PerLevel::All(n)) => vec![*n; levels],
            Some(PerLevel::Each(list)) => list.clone(),
            None => vec![DEFAULT_HEAD_DIM; levels],
        }
    }

    /// Refuses what the modules are not built for.
    ///
    /// # Errors
    /// If the config contradicts itself or names unknown blocks.
    pub fn check(&self) -> Result<(), UNetError> {
        let fail = |text: String| Err(UNetError::Config(text));
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
        check_types(
            &self.down_block_types,
            ["CrossAttnDownBlock3D", "DownBlock3D"],
        )?;
        check_types(&self.up_block_types, ["CrossAttnUpBlock3D", "UpBlock3D"])?;
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
        if !self.block_out_channels[0].is_multiple_of(2) {
            return fail(format!(
                "block_out_channels[0] = {} must be even: half of it are cosines, half sines",
                self.block_out_channels[0]
            ));
        }
        let heads = self.head_dims();
        if heads.len() != levels {
            return fail(format!(
                "attention_head_dim has {} entries for {levels} levels",
                heads.len()
            ));
        }
        if heads
            .iter()
            .zip(&self.block_out_channels)
            .any(|(d, c)| *d == 0 || d > c)
        {
            return fail(format!(
                "attention_head_dim {heads:?} must be between 1 and the level's width {:?} (it is channels per head)",
                self.block_out_channels
            ));
        }
        // The published layers that read image latents are built for four channels whatever the config says.
        if self.in_channels != 4 || self.out_channels == 0 || self.cross_attention_dim == 0 {
            return fail(
                "in_channels must be 4, out_channels and cross_attention_dim at least 1".into(),
            );
        }
        Ok(())
    }
}

fn check_types(types: &[String], known: [&str; 2]) -> Result<(), UNetError> {
    match types.iter().find(|t| !known.contains(&t.as_str())) {
        Some(unknown) => Err(UNetError::Config(format!(
            "block type '{unknown}' is not supported; supported are {} and {}",
            known[0], known[1]
        ))),
        None => Ok(()),
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
