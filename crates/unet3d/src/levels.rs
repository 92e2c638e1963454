//! What the configs of both UNets say about their levels.

use crate::{PerLevel, UNetError};

/// Channels per head where a config names none.
const DEFAULT_HEAD_DIM: usize = 64;

/// The part of a UNet's config that its blocks are built from.
pub(crate) struct Levels<'a> {
    pub(crate) down_block_types: &'a [String],
    pub(crate) up_block_types: &'a [String],
    pub(crate) block_out_channels: &'a [usize],
    pub(crate) layers_per_block: usize,
    pub(crate) norm_num_groups: usize,
    pub(crate) cross_attention_dim: usize,
    /// Channels per head.
    pub(crate) head_dim: Option<&'a PerLevel>,
}

impl Levels<'_> {
    /// Channels per head of each level, outermost first.
    pub(crate) fn head_dims(&self) -> Vec<usize> {
        let levels = self.block_out_channels.len();
        match self.head_dim {
            Some(PerLevel::All(n)) => vec![*n; levels],
            Some(PerLevel::Each(list)) => list.clone(),
            None => vec![DEFAULT_HEAD_DIM; levels],
        }
    }

    /// Refuses what the blocks are not built for.
    pub(crate) fn check(&self) -> Result<(), UNetError> {
        let fail = |text: String| Err(UNetError::Config(text));
        let channels = self.block_out_channels;
        let levels = channels.len();
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
            self.down_block_types,
            ["CrossAttnDownBlock3D", "DownBlock3D"],
        )?;
        check_types(self.up_block_types, ["CrossAttnUpBlock3D", "UpBlock3D"])?;
        let groups = self.norm_num_groups;
        if groups == 0 || channels.iter().any(|c| *c == 0 || c % groups != 0) {
            return fail(format!(
                "every width in block_out_channels {channels:?} must be a multiple of norm_num_groups {groups}"
            ));
        }
        if !channels[0].is_multiple_of(2) {
            return fail(format!(
                "block_out_channels[0] = {} must be even: half of it are cosines, half sines",
                channels[0]
            ));
        }
        let heads = self.head_dims();
        if heads.len() != levels {
            return fail(format!(
                "attention_head_dim has {} entries for {levels} levels",
                heads.len()
            ));
        }
        if heads.iter().zip(channels).any(|(d, c)| *d == 0 || d > c) {
            return fail(format!(
                "attention_head_dim {heads:?} must be between 1 and the level's width {channels:?} (it is channels per head)"
            ));
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
