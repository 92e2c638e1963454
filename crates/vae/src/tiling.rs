//! Images larger than a tile are encoded and decoded in overlapping tiles (diffusers `tiled_encode`, `tiled_decode`;
//! reference `vae.md` §4).

use burn::tensor::{Tensor, TensorData, backend::Backend};

use crate::{AutoencoderKLConfig, VaeError};

/// Size and overlap of the tiles.
///
/// Norms and the middle attention see one tile at a time, so a tiled result is close to the untiled one, not equal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tiling {
    /// Height and width of a tile in pixels, multiples of [`AutoencoderKLConfig::scale_factor`]. (diffusers has one side for
    /// both, and a second field, `tile_latent_min_size`, for the same in latents.)
    pub tile_sample_min_size: [usize; 2],
    /// Part of a tile that it shares with the next one, in 0..1. It is rounded down to whole latents.
    pub tile_overlap_factor: f64,
}

impl Tiling {
    /// What diffusers uses: squares of the config's `sample_size` that overlap by a quarter.
    pub fn of(config: &AutoencoderKLConfig) -> Self {
        Self {
            tile_sample_min_size: [config.sample_size; 2],
            tile_overlap_factor: 0.25,
        }
    }

    /// The same in latents.
    pub(crate) fn grid(&self, config: &AutoencoderKLConfig) -> Result<Grid, VaeError> {
        let factor = config.scale_factor();
        let good = |side: usize| side > 0 && side.is_multiple_of(factor);
        if !self.tile_sample_min_size.into_iter().all(good) {
            return Err(VaeError::TileSize {
                found: self.tile_sample_min_size,
                factor,
            });
        }
        if !(0.0..1.0).contains(&self.tile_overlap_factor) {
            return Err(VaeError::TileOverlap(self.tile_overlap_factor));
        }
        let tile = self.tile_sample_min_size.map(|side| side / factor);
        // Less than the tile even where the product rounds up.
        let overlap = tile.map(|n| ((n as f64 * self.tile_overlap_factor) as usize).min(n - 1));
        Ok(Grid { tile, overlap })
    }
}

/// Tiles in latents: vertical, horizontal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    tile: [usize; 2],
    overlap: [usize; 2],
}

/// What the tiles are cut from and what they become.
#[derive(Clone, Copy)]
pub(crate) struct Scale {
    /// Entries of the input per latent.
    pub(crate) input: usize,
    /// Entries of the output per latent.
    pub(crate) output: usize,
}

impl Grid {
    /// Whether an input of this size is larger than a tile.
    pub(crate) fn is_exceeded_by(&self, size: [usize; 2], scale: usize) -> bool {
        (0..2).any(|axis| size[axis] > self.tile[axis] * scale)
    }

    /// `f` of every tile, blended over the overlaps. Besides the output no more than two rows of tiles exist at a time.
    ///
    /// # Shapes
    /// `[n, h·input, w·input, c]` → `[n, h·output, w·output, d]`; what does not fill a latent counts to the one before it
    pub(crate) fn map<B: Backend>(
        &self,
        x: Tensor<B, 4>,
        scale: Scale,
        f: impl Fn(Tensor<B, 4>) -> Tensor<B, 4>,
    ) -> Tensor<B, 4> {
        let [_, height, width, _] = x.dims();
        let step = [0, 1].map(|axis| self.tile[axis] - self.overlap[axis]);
        let starts = |size: usize, step: usize| (0..size / scale.input).step_by(step);
        let [size, blend] = [
            self.tile.map(|n| n * scale.input),
            self.overlap.map(|n| n * scale.output),
        ];
        let keep = step.map(|n| n * scale.output);

        let mut above: Vec<Tensor<B, 4>> = Vec::new();
        let mut rows = Vec::new();
        for i in starts(height, step[0]) {
            let row_of_x = cut(x.clone(), 1, i * scale.input, size[0]);
            let mut row: Vec<Tensor<B, 4>> = Vec::new();
            for j in starts(width, step[1]) {
                let mut tile = f(cut(row_of_x.clone(), 2, j * scale.input, size[1]));
                if let Some(above) = above.get(row.len()) {
                    tile = blend_edge(above, tile, 1, blend[0]);
                }
                if let Some(left) = row.last() {
                    tile = blend_edge(left, tile, 2, blend[1]);
                }
                row.push(tile);
            }
            let kept = |tile: &Tensor<B, 4>| cut(cut(tile.clone(), 1, 0, keep[0]), 2, 0, keep[1]);
            rows.push(Tensor::cat(row.iter().map(kept).collect(), 2));
            above = row;
        }
        Tensor::cat(rows, 1)
    }
}

/// At most `len` entries of an axis.
fn cut<B: Backend>(x: Tensor<B, 4>, dim: usize, start: usize, len: usize) -> Tensor<B, 4> {
    let rest = x.dims()[dim] - start;
    x.narrow(dim, start, len.min(rest))
}

/// `next`, whose first entries fade in from the last ones of `previous`.
fn blend_edge<B: Backend>(
    previous: &Tensor<B, 4>,
    next: Tensor<B, 4>,
    dim: usize,
    extent: usize,
) -> Tensor<B, 4> {
    let (before, len) = (previous.dims()[dim], next.dims()[dim]);
    let extent = extent.min(before).min(len);
    if extent == 0 {
        return next;
    }
    let ramp = |from: fn(f64) -> f64| {
        let weights = (0..extent).map(|k| from(k as f64 / extent as f64) as f32);
        let mut shape = [1; 4];
        shape[dim] = extent;
        let data = TensorData::new(weights.collect::<Vec<_>>(), shape);
        Tensor::from_data(data, (&next.device(), next.dtype()))
    };
    let old = previous.clone().narrow(dim, before - extent, extent);
    let new = next.clone().narrow(dim, 0, extent);
    let edge = old * ramp(|w| 1.0 - w) + new * ramp(|w| w);
    if extent == len {
        return edge;
    }
    Tensor::cat(vec![edge, next.narrow(dim, extent, len - extent)], dim)
}
