//! The walks through both CLIP towers.

use i2vgen_clip_encoders::{CLIPTextConfig, CLIPVisionConfig};

use super::meter::{Map, Meter};

/// One prompt through all but the last `skip` layers, which are not loaded either.
pub(super) fn text(config: &CLIPTextConfig, skip: usize, tokens: f64) -> Meter {
    let mut m = Meter::default();
    let hidden = config.hidden_size as f64;
    m.own(config.vocab_size as f64 * hidden);
    m.own(config.max_position_embeddings as f64 * hidden);
    let x = m.make(1.0, tokens, hidden);
    let layers = config.num_hidden_layers.saturating_sub(skip);
    let x = encoder(&mut m, x, layers, config.intermediate_size as f64);
    m.norm(x);
    m
}

/// One picture.
pub(super) fn vision(config: &CLIPVisionConfig) -> Meter {
    let mut m = Meter::default();
    let hidden = config.hidden_size as f64;
    let side = (config.image_size / config.patch_size) as f64;
    let patches = side * side;
    let pixels = m.make(
        1.0,
        (config.image_size as f64).powi(2),
        config.num_channels as f64,
    );
    let embedded = m.conv(pixels, hidden, config.patch_size as f64, patches);
    m.free(pixels);
    // The class embedding takes the place of the convolution's bias; then come the positions.
    m.own((patches + 1.0) * hidden);
    let x = m.make(1.0, patches + 1.0, hidden);
    m.free(embedded);
    let normed = m.norm(x);
    m.free(x);
    let layers = config.num_hidden_layers;
    let x = encoder(&mut m, normed, layers, config.intermediate_size as f64);
    let class = m.make(1.0, 1.0, x.c);
    let normed = m.norm(class);
    m.linear(normed, config.projection_dim as f64, false);
    m
}

fn encoder(m: &mut Meter, mut x: Map, layers: usize, intermediate: f64) -> Map {
    for _ in 0..layers {
        let normed = m.norm(x);
        let y = m.self_attention(normed, x.c, true, |m, q| m.attention(q, q.s));
        m.free(x);
        let normed = m.norm(y);
        let h = m.linear(normed, intermediate, true);
        m.free(normed);
        // The activation's second operand.
        let gate = m.make(h.n, h.s, h.c);
        m.free(gate);
        let z = m.linear(h, x.c, true);
        m.free(h);
        m.free(y);
        x = z;
    }
    x
}
