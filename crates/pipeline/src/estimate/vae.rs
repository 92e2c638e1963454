//! The walks through `AutoencoderKL`'s halves.

use i2vgen_vae::AutoencoderKLConfig;

use super::meter::{Map, Meter};

/// Encodes images of `[height, width]` pixels.
pub(super) fn encode(config: &AutoencoderKLConfig, images: f64, size: [usize; 2]) -> Meter {
    let mut m = Meter::default();
    let widths = &config.block_out_channels;
    let mut level = size.map(|n| n as f64);
    let pixels = m.make(images, area(level), config.in_channels as f64);
    let mut x = m.conv(pixels, widths[0] as f64, 3.0, pixels.s);
    for (i, width) in widths.iter().enumerate() {
        for _ in 0..config.layers_per_block {
            x = resnet(&mut m, x, *width as f64);
        }
        if i + 1 < widths.len() {
            // One row and column are padded below and on the right.
            level = level.map(|n| (n / 2.0).floor());
            let half = m.conv(x, x.c, 3.0, area(level));
            m.free(x);
            x = half;
        }
    }
    x = middle(&mut m, x, config);
    let moments = 2.0 * config.latent_channels as f64;
    let y = finish(&mut m, x, moments);
    if config.use_quant_conv {
        m.conv(y, moments, 1.0, y.s);
    }
    m
}

/// Decodes images of `[height, width]` latents.
pub(super) fn decode(config: &AutoencoderKLConfig, images: f64, size: [usize; 2]) -> Meter {
    let mut m = Meter::default();
    let mut level = size.map(|n| n as f64);
    let channels = config.latent_channels as f64;
    let mut z = m.make(images, area(level), channels);
    if config.use_post_quant_conv {
        z = m.conv(z, channels, 1.0, z.s);
    }
    let widths = &config.block_out_channels;
    let top = widths[widths.len() - 1] as f64;
    let mut x = m.conv(z, top, 3.0, z.s);
    x = middle(&mut m, x, config);
    for (i, width) in widths.iter().enumerate().rev() {
        for _ in 0..=config.layers_per_block {
            x = resnet(&mut m, x, *width as f64);
        }
        if i > 0 {
            level = level.map(|n| n * 2.0);
            let large = m.make(images, area(level), x.c);
            m.free(x);
            x = m.conv(large, x.c, 3.0, large.s);
            m.free(large);
        }
    }
    finish(&mut m, x, config.out_channels as f64);
    m
}

fn area(level: [f64; 2]) -> f64 {
    level[0] * level[1]
}

/// The last norm and convolution. Frees `x`.
fn finish(m: &mut Meter, x: Map, out: f64) -> Map {
    let normed = m.norm(x);
    m.free(x);
    let y = m.conv(normed, out, 3.0, normed.s);
    m.free(normed);
    y
}

fn resnet(m: &mut Meter, x: Map, out: f64) -> Map {
    let normed = m.norm(x);
    let h = m.conv(normed, out, 3.0, x.s);
    m.free(normed);
    let normed = m.norm(h);
    m.free(h);
    let h = m.conv(normed, out, 3.0, x.s);
    m.free(normed);
    if x.c != out {
        let shortcut = m.conv(x, out, 1.0, x.s);
        m.free(shortcut);
    }
    // The sum takes the place of `h`.
    m.free(x);
    h
}

fn middle(m: &mut Meter, x: Map, config: &AutoencoderKLConfig) -> Map {
    let mut x = resnet(m, x, x.c);
    if config.mid_block_add_attention {
        let normed = m.norm(x);
        let y = m.self_attention(normed, x.c, true, |m, q| m.attention(q, q.s));
        m.free(x);
        x = y;
    }
    resnet(m, x, x.c)
}
