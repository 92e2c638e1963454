//! The walk through `I2VGenXLUNet`, split as it is into what is done once and what is done per model evaluation.

use i2vgen_unet3d::I2VGenXLUNetConfig;

use super::meter::{Classes, Hidden, Map, Meter};

/// Side to which image features are pooled before they become tokens.
const POOLED: f64 = 32.0;
/// Tokens that they become.
const LOCAL_TOKENS: f64 = 64.0;
/// Heads of the transformer in front of the first level.
const TRANSFORMER_IN_HEADS: f64 = 8.0;

/// Sizes of one pass.
#[derive(Clone, Copy)]
pub(super) struct Size {
    /// Videos, twice as many with guidance.
    pub(super) rows: f64,
    /// Passes of a model evaluation, among which the rows are split.
    pub(super) passes: f64,
    pub(super) frames: f64,
    /// Height and width in latents.
    pub(super) latents: [usize; 2],
    /// Text tokens.
    pub(super) tokens: f64,
    pub(super) hidden: Hidden,
}

/// Most parameters that are in memory when layers are read as they are used: those outside of the levels, which stay, and the
/// largest layer, a residual block behind the widest concatenation.
pub(super) fn streamed(config: &I2VGenXLUNetConfig) -> f64 {
    let widest = config.block_out_channels.iter().max().copied();
    let (first, widest) = (
        config.block_out_channels[0] as f64,
        widest.unwrap_or(0) as f64,
    );
    let (time, context) = (
        config.time_embed_dim() as f64,
        config.cross_attention_dim as f64,
    );
    let inner = TRANSFORMER_IN_HEADS * config.head_dims()[0] as f64;
    let of_numbers = 2.0 * (first * time + time * time);
    let of_picture = context * time * (1.0 + config.in_channels as f64);
    // Two attentions of four matrices, and a feed-forward of twelve.
    let transformer_in = 2.0 * first * inner + 20.0 * inner * inner;
    // From twice as many channels: two convolutions of nine taps, a shortcut, and the time's.
    let resnet = (18.0 + 9.0 + 2.0) * widest * widest + time * widest;
    of_numbers + of_picture + transformer_in + resnet
}

/// What the walk has counted.
pub(super) struct Walk {
    size: Size,
    /// Width of the time embedding.
    time: f64,
    /// Width of the context and its tokens per row.
    context: [f64; 2],
    /// One model evaluation.
    pub(super) step: Meter,
    /// Operations of an evaluation that uses the deep features of an earlier one again.
    pub(super) cached_flops: f64,
    /// Those features.
    pub(super) deep: Classes,
    /// What is done once.
    pub(super) prepare: Meter,
    /// Values that were prepared and stay alive over all steps.
    pub(super) held: Classes,
}

impl Walk {
    /// `config` has been checked.
    pub(super) fn new(config: &I2VGenXLUNetConfig, size: Size) -> Self {
        let tokens = size.tokens + LOCAL_TOKENS + config.in_channels as f64;
        let mut walk = Self {
            size,
            time: config.time_embed_dim() as f64,
            context: [config.cross_attention_dim as f64, tokens],
            step: Meter::default(),
            cached_flops: 0.0,
            deep: [0.0; 2],
            prepare: Meter::default(),
            held: [0.0; 2],
        };
        walk.prepare(config);
        walk.forward(config);
        walk
    }

    fn prepare(&mut self, config: &I2VGenXLUNetConfig) {
        let Size { rows, frames, .. } = self.size;
        let area = area(self.size.latents);
        let channels = config.in_channels as f64;
        let [width, _] = self.context;
        let time = self.time;
        let m = &mut self.prepare;
        m.mlp(1.0, [config.block_out_channels[0] as f64, time, time]);
        m.mlp(rows, [width, time, width * channels]);

        // The first frame's latents become tokens.
        let first = m.make(rows, area, channels);
        let large = m.conv(first, 8.0 * channels, 3.0, area);
        let pooled = m.make(rows, POOLED * POOLED, 8.0 * channels);
        m.free(large);
        let half = m.conv(pooled, 16.0 * channels, 3.0, POOLED * POOLED / 4.0);
        let tokens = m.conv(half, width, 3.0, LOCAL_TOKENS);
        for map in [first, pooled, half, tokens] {
            m.free(map);
        }

        // All frames' latents become features.
        let latents = m.make(rows * frames, area, channels);
        let x = m.conv(latents, 4.0 * channels, 3.0, area);
        let y = m.conv(x, 4.0 * channels, 3.0, area);
        m.free(x);
        let x = m.conv(y, channels, 3.0, area);
        m.free(y);
        let normed = m.norm(x);
        let heads = 2.0;
        let y = m.self_attention(normed, heads * channels, false, |m, q| {
            m.frame_attention(q, frames)
        });
        m.free(x);
        let features = m.feed_forward(y, 4.0 * channels, false, self.size.hidden);
        m.free(features);
        self.held[features.class()] += features.values();
    }

    fn forward(&mut self, config: &I2VGenXLUNetConfig) {
        let widths: Vec<f64> = config
            .block_out_channels
            .iter()
            .map(|c| *c as f64)
            .collect();
        let heads: Vec<f64> = config.head_dims().iter().map(|d| *d as f64).collect();
        let layers = config.layers_per_block;
        let last = widths.len() - 1;
        let Size { rows, passes, .. } = self.size;
        let images = rows / passes * self.size.frames;
        let mut level = self.size.latents;

        // What the passes before the last one have predicted.
        let channels = config.out_channels as f64;
        self.step
            .make((passes - 1.0) * images, area(level), channels);
        self.step.mlp(1.0, [widths[0], self.time, self.time]);
        let input = self
            .step
            .make(images, area(level), 2.0 * config.in_channels as f64);
        let x = self.step.conv(input, widths[0], 3.0, area(level));
        self.step.free(input);
        let mut x = self.temporal_transformer(x, TRANSFORMER_IN_HEADS * heads[0]);
        let before = self.step.flops;
        let mut deep = 0.0;

        // A skip shares its values with the map that flows on, which therefore is not freed.
        let mut skips = vec![(x, level)];
        for i in 0..=last {
            let cross = config.down_block_types[i] == "CrossAttnDownBlock3D";
            for _ in 0..layers {
                x = self.layer(x, widths[i], cross.then_some(heads[i]), true);
                skips.push((x, level));
            }
            if i < last {
                level = level.map(|n| n.div_ceil(2));
                x = self.step.conv(x, widths[i], 3.0, area(level));
                skips.push((x, level));
            }
        }
        x = self.layer(x, widths[last], Some(heads[last]), true);
        x = self.layer(x, widths[last], None, false);
        for at in (0..=last).rev() {
            let cross = config.up_block_types[last - at] == "CrossAttnUpBlock3D";
            for _ in 0..=layers {
                let Some((skip, _)) = skips.pop() else { break };
                if skips.is_empty() {
                    self.deep[x.class()] += passes * x.values();
                    deep = self.step.flops - before;
                }
                let joined = self.step.make(x.n, x.s, x.c + skip.c);
                self.step.free(x);
                self.step.free(skip);
                x = self.layer(joined, widths[at], cross.then_some(heads[at]), false);
            }
            if let (true, Some((_, next))) = (at > 0, skips.last()) {
                let large = self.step.make(images, area(*next), x.c);
                self.step.free(x);
                x = self.step.conv(large, widths[at], 3.0, area(*next));
                self.step.free(large);
            }
        }
        let normed = self.step.norm(x);
        self.step.free(x);
        self.step.conv(normed, channels, 3.0, normed.s);
        self.cached_flops = passes * (self.step.flops - deep);
        self.step.flops *= passes;
    }

    /// A residual block, the temporal convolutions and, with channels per head, both transformers. Frees `x` unless a skip
    /// holds it.
    fn layer(&mut self, x: Map, out: f64, head: Option<f64>, held: bool) -> Map {
        let x = self.resnet(x, out, held);
        self.temporal_conv(x);
        match head {
            Some(head) => {
                let inner = (out / head).floor() * head;
                let x = self.spatial_transformer(x, inner);
                self.temporal_transformer(x, inner)
            }
            None => x,
        }
    }

    fn resnet(&mut self, x: Map, out: f64, held: bool) -> Map {
        let m = &mut self.step;
        let embedding = m.make(self.size.rows / self.size.passes, 1.0, self.time);
        let bias = m.linear(embedding, out, true);
        let normed = m.norm(x);
        let h = m.conv(normed, out, 3.0, x.s);
        m.free(normed);
        let normed = m.norm(h);
        m.free(h);
        let h = m.conv(normed, out, 3.0, x.s);
        m.free(normed);
        let shortcut = (x.c != out).then(|| m.conv(x, out, 1.0, x.s));
        // The sum takes the place of the shortcut or of `x`, unless a skip holds that.
        let sum = match shortcut {
            Some(shortcut) => shortcut,
            None if held => m.make(x.n, x.s, out),
            None => x,
        };
        if shortcut.is_some() && !held {
            m.free(x);
        }
        for map in [embedding, bias, h] {
            m.free(map);
        }
        sum
    }

    /// The sum takes the place of `x`.
    fn temporal_conv(&mut self, x: Map) {
        let m = &mut self.step;
        let normed = m.norm(x);
        let mut h = m.frame_conv(normed);
        m.free(normed);
        for _ in 0..3 {
            let normed = m.norm(h);
            m.free(h);
            h = m.frame_conv(normed);
            m.free(normed);
        }
        m.free(h);
    }

    fn spatial_transformer(&mut self, x: Map, inner: f64) -> Map {
        let [width, tokens] = self.context;
        let context = Map {
            n: self.size.rows,
            s: tokens,
            c: width,
        };
        for _ in 0..2 {
            let kept = self.prepare.linear(context, inner, false);
            self.prepare.free(kept);
            self.held[kept.class()] += kept.values();
        }
        let m = &mut self.step;
        let normed = m.norm(x);
        let y = m.linear(normed, inner, true);
        m.free(normed);

        let normed = m.norm(y);
        let z = m.self_attention(normed, inner, false, |m, q| m.attention(q, q.s));
        m.free(y);

        let normed = m.norm(z);
        let q = m.linear(normed, inner, false);
        m.free(normed);
        let mixed = m.attention(q, tokens);
        m.free(q);
        let y = m.linear(mixed, inner, true);
        m.free(mixed);
        m.free(z);
        self.finish_transformer(x, y)
    }

    fn temporal_transformer(&mut self, x: Map, inner: f64) -> Map {
        let frames = self.size.frames;
        let m = &mut self.step;
        let normed = m.norm(x);
        let mut y = m.linear(normed, inner, true);
        m.free(normed);
        for _ in 0..2 {
            let normed = m.norm(y);
            let z = m.self_attention(normed, inner, false, |m, q| m.frame_attention(q, frames));
            m.free(y);
            y = z;
        }
        self.finish_transformer(x, y)
    }

    /// The feed-forward layer, the projection and the residual.
    fn finish_transformer(&mut self, x: Map, y: Map) -> Map {
        let m = &mut self.step;
        let normed = m.norm(y);
        let fed = m.feed_forward(normed, 4.0 * y.c, true, self.size.hidden);
        m.free(y);
        let sum = m.linear(fed, x.c, true);
        m.free(fed);
        m.free(x);
        sum
    }
}

fn area(level: [usize; 2]) -> f64 {
    level[0] as f64 * level[1] as f64
}
