//! The VAE's work in overlapping tiles, as `i2vgen_vae` does it.

use i2vgen_vae::Tiling;

use super::meter::Meter;

/// Sizes of an axis that are told apart; the smaller tiles at its end are rounded up to one of them.
const SIZES: usize = 32;

/// Tiles in latents: vertical, horizontal.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    tile: [usize; 2],
    overlap: [usize; 2],
}

impl Grid {
    /// `tiling` has been checked; `factor` is the number of pixels per latent.
    pub(super) fn new(tiling: Tiling, factor: usize) -> Self {
        let tile = tiling.tile_sample_min_size.map(|side| side / factor);
        let overlap = |n: usize| ((n as f64 * tiling.tile_overlap_factor) as usize).min(n - 1);
        Self {
            tile,
            overlap: tile.map(overlap),
        }
    }

    /// Sizes along an axis of `n` latents and how many tiles have them: all but the last few are whole.
    fn sizes(&self, axis: usize, n: usize) -> Vec<(usize, f64)> {
        let tile = self.tile[axis];
        let round = tile.div_ceil(SIZES);
        let mut sizes: Vec<(usize, f64)> = Vec::new();
        for start in (0..n).step_by(tile - self.overlap[axis]) {
            let size = (n - start).min(tile).next_multiple_of(round).min(tile);
            match sizes.last_mut() {
                Some((last, count)) if *last == size => *count += 1.0,
                _ => sizes.push((size, 1.0)),
            }
        }
        sizes
    }
}

/// `one` over all tiles of a map of so many latents, or over all of it if it is no larger than a tile. The result has
/// `per_latent` values for a latent.
pub(super) fn walk(
    latents: [usize; 2],
    grid: Option<Grid>,
    per_latent: f64,
    one: impl Fn([usize; 2]) -> Meter,
) -> Meter {
    let exceeded = |grid: &Grid| (0..2).any(|axis| latents[axis] > grid.tile[axis]);
    let Some(grid) = grid.filter(exceeded) else {
        return one(latents);
    };
    let mut sum = Meter::default();
    for (height, rows) in grid.sizes(0, latents[0]) {
        for (width, columns) in grid.sizes(1, latents[1]) {
            sum.add_part(one([height, width]), rows * columns);
        }
    }
    // Two rows of tiles, and what has been joined of earlier ones; then all of that is joined.
    let width = grid.sizes(1, latents[1]);
    let width: f64 = width.iter().map(|(n, count)| *n as f64 * count).sum();
    let row = width * grid.tile[0].min(latents[0]) as f64 * per_latent;
    let whole = (latents[0] * latents[1]) as f64 * per_latent;
    sum.join(2.0 * row, whole);
    sum
}
