use serde::{Deserialize, Serialize};

use crate::{PerLevel, UNetError, levels::Levels, resnet::Spatial};

/// `unet/config.json` of a `UNet3DConditionModel`, with diffusers' names and defaults.
///
/// Two keys are ours. MS-Vid2Vid-XL is this model with `downsample_padding: [2, 1]` (rows, columns) and
/// `upsample_crop_rows: 1`; diffusers has no such model.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
pub struct UNet3DConditionModelConfig {
    /// Latent side of training; only a default for the output size.
    pub sample_size: Option<PerLevel>,
    /// Channels of the noise.
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
    /// Zero pixels around an image before it is halved: one number, or rows and columns.
    pub downsample_padding: PerLevel,
    /// Rows that are dropped at the top and at the bottom after doubling.
    pub upsample_crop_rows: usize,
    /// Must be 1.
    pub mid_block_scale_factor: f64,
    /// Must be `silu`.
    pub act_fn: String,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Must be 1e-5.
    pub norm_eps: f64,
    /// Width of the text tokens.
    pub cross_attention_dim: usize,
    /// Channels per attention head, for all levels or per level.
    pub attention_head_dim: PerLevel,
    /// Must be null.
    pub num_attention_heads: Option<PerLevel>,
    /// Must be null.
    pub time_cond_proj_dim: Option<usize>,
}

impl Default for UNet3DConditionModelConfig {
    fn default() -> Self {
        let blocks = crate::I2VGenXLUNetConfig::default();
        Self {
            sample_size: None,
            in_channels: 4,
            out_channels: 4,
            down_block_types: blocks.down_block_types,
            up_block_types: blocks.up_block_types,
            block_out_channels: blocks.block_out_channels,
            layers_per_block: 2,
            downsample_padding: PerLevel::All(1),
            upsample_crop_rows: 0,
            mid_block_scale_factor: 1.0,
            act_fn: "silu".to_owned(),
            norm_num_groups: 32,
            norm_eps: 1e-5,
            cross_attention_dim: 1024,
            attention_head_dim: PerLevel::All(64),
            num_attention_heads: None,
            time_cond_proj_dim: None,
        }
    }
}

impl UNet3DConditionModelConfig {
    /// Width of the time embedding.
    pub fn time_embed_dim(&self) -> usize {
        self.block_out_channels[0] * 4
    }

    pub(crate) fn levels(&self) -> Levels<'_> {
        Levels {
            down_block_types: &self.down_block_types,
            up_block_types: &self.up_block_types,
            block_out_channels: &self.block_out_channels,
            layers_per_block: self.layers_per_block,
            norm_num_groups: self.norm_num_groups,
            cross_attention_dim: self.cross_attention_dim,
            head_dim: Some(&self.attention_head_dim),
        }
    }

    pub(crate) fn spatial(&self) -> Spatial {
        let padding = match &self.downsample_padding {
            PerLevel::All(n) => [*n; 2],
            PerLevel::Each(list) => std::array::from_fn(|i| list.get(i).copied().unwrap_or(1)),
        };
        Spatial {
            downsample_padding: Some(padding),
            upsample_crop_rows: self.upsample_crop_rows,
        }
    }

    /// Refuses what the modules are not built for.
    ///
    /// # Errors
    /// If the config contradicts itself or asks for what no published model has.
    pub fn check(&self) -> Result<(), UNetError> {
        self.levels().check()?;
        let fail = |text: String| Err(UNetError::Config(text));
        if self.in_channels == 0 || self.out_channels == 0 || self.cross_attention_dim == 0 {
            return fail(
                "in_channels, out_channels and cross_attention_dim must be at least 1".into(),
            );
        }
        let only = |key: &str, right: bool, value: &str| match right {
            true => Ok(()),
            false => fail(format!(
                "{key} must be {value}, as in every published model"
            )),
        };
        only("act_fn", self.act_fn == "silu", "silu")?;
        only("norm_eps", self.norm_eps == 1e-5, "1e-5")?;
        let factor = self.mid_block_scale_factor;
        only("mid_block_scale_factor", factor == 1.0, "1")?;
        let heads = self.num_attention_heads.is_none();
        only("num_attention_heads", heads, "null")?;
        let projection = self.time_cond_proj_dim.is_none();
        only("time_cond_proj_dim", projection, "null")?;
        // Any other padding loses the size that the skips have.
        let spatial = self.spatial();
        let is_list_of_two =
            !matches!(&self.downsample_padding, PerLevel::Each(list) if list.len() != 2);
        let known = [([1, 1], 0), ([2, 1], 1)];
        let found = (
            spatial.downsample_padding.unwrap_or([1, 1]),
            spatial.upsample_crop_rows,
        );
        if !is_list_of_two || !known.contains(&found) {
            return fail(format!(
                "downsample_padding {:?} with upsample_crop_rows {} is not supported; 1 with 0 is, and [2, 1] with 1 (MS-Vid2Vid-XL)",
                found.0, found.1
            ));
        }
        Ok(())
    }

    /// The latent height of at least 1 next to `height` whose levels meet again on the way up; it is `height` where that fits,
    /// as every height does without `upsample_crop_rows`.
    pub fn nearest_height(&self, height: usize) -> usize {
        let height = height.max(1);
        if self.upsample_crop_rows == 0 {
            return height;
        }
        let fits = |height: usize| {
            let mut at = height;
            (1..self.block_out_channels.len()).all(|_| {
                let below = at.div_ceil(2) + 1;
                let back = 2 * below - 2 == at;
                at = below;
                back
            })
        };
        // Above half a step, up wins; some height within one step of the coarsest level always fits.
        let step = 1 << self.block_out_channels.len();
        let nearest = (0..=step).flat_map(|d| [height + d, height.saturating_sub(d)]);
        let mut legal = nearest.filter(|h| *h > 0 && fits(*h));
        legal.next().unwrap_or(height)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> UNet3DConditionModelConfig {
        serde_json::from_str(json).expect("valid")
    }

    #[test]
    fn refuses_what_cannot_be_built() {
        for json in [
            r#"{"num_attention_heads": 8}"#,
            r#"{"act_fn": "gelu"}"#,
            r#"{"norm_eps": 1e-6}"#,
            r#"{"mid_block_scale_factor": 1.4}"#,
            r#"{"time_cond_proj_dim": 256}"#,
            r#"{"downsample_padding": 0}"#,
            r#"{"downsample_padding": [2, 1]}"#,
            r#"{"downsample_padding": [2, 1, 1], "upsample_crop_rows": 1}"#,
            r#"{"upsample_crop_rows": 1}"#,
            r#"{"in_channels": 0}"#,
            r#"{"norm_num_groups": 7}"#,
        ] {
            assert!(parse(json).check().is_err(), "{json}");
        }
        parse("{}").check().expect("the published config");
        parse(r#"{"downsample_padding": [2, 1], "upsample_crop_rows": 1}"#)
            .check()
            .expect("MS-Vid2Vid-XL");
    }

    #[test]
    fn heights_of_vid2vid() {
        let config = parse(r#"{"downsample_padding": [2, 1], "upsample_crop_rows": 1}"#);
        assert_eq!(config.nearest_height(90), 90);
        assert_eq!(config.nearest_height(88), 90);
        assert_eq!(config.nearest_height(85), 82);
        assert_eq!(config.nearest_height(0), 2);
        for height in (2..200).filter(|h| h % 8 == 2) {
            assert_eq!(config.nearest_height(height), height);
        }
        assert_eq!(parse("{}").nearest_height(88), 88);
    }
}
