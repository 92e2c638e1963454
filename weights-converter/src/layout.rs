//! Which tensors a component has, from its config: what a conversion must produce, no more and no less.

use serde_json::Value;

/// Names and shapes of a component's tensors.
pub type Keys = Vec<(String, Vec<usize>)>;

struct Layout<'a> {
    config: &'a Value,
    keys: Keys,
}

/// `I2VGenXLUNet`, or with `image` false `UNet3DConditionModel`.
pub(crate) fn unet(config: &Value, image: bool) -> Option<Keys> {
    let mut l = Layout {
        config,
        keys: Vec::new(),
    };
    let widths = l.widths()?;
    let (layers, cross) = (
        l.count("layers_per_block", 2)?,
        l.number("cross_attention_dim", 1024)?,
    );
    let (input, output) = (l.number("in_channels", 4)?, l.number("out_channels", 4)?);
    let head = match (
        &config["attention_head_dim"],
        &config["num_attention_heads"],
    ) {
        (Value::Null, Value::Null) => 64,
        (Value::Null, n) | (n, _) => n.get(0).unwrap_or(n).as_u64()? as usize,
    };
    let (first, last) = (widths[0], *widths.last()?);
    let time = first * 4;
    l.conv(
        "conv_in",
        first,
        if image { input * 2 } else { input },
        &[3, 3],
    );
    l.transformer("transformer_in", first, 8 * head, None);
    if image {
        let name = "image_latents_proj_in";
        l.conv(&format!("{name}.0"), input * 4, input, &[3, 3]);
        l.conv(&format!("{name}.2"), input * 4, input * 4, &[3, 3]);
        l.conv(&format!("{name}.4"), input, input * 4, &[3, 3]);
        let name = "image_latents_temporal_encoder";
        l.norm(&format!("{name}.norm1"), input);
        l.attention(&format!("{name}.attn1"), input, input, input * 2);
        l.linear(&format!("{name}.ff.net.0.proj"), input * 4, input);
        l.linear(&format!("{name}.ff.net.2"), input, input * 4);
        let name = "image_latents_context_embedding";
        l.conv(&format!("{name}.0"), input * 8, input, &[3, 3]);
        l.conv(&format!("{name}.3"), input * 16, input * 8, &[3, 3]);
        l.conv(&format!("{name}.5"), cross, input * 16, &[3, 3]);
        l.linear("context_embedding.0", time, cross);
        l.linear("context_embedding.2", cross * input, time);
        l.linear("fps_embedding.0", time, first);
        l.linear("fps_embedding.2", time, time);
    }
    l.linear("time_embedding.linear_1", time, first);
    l.linear("time_embedding.linear_2", time, time);
    for (b, width) in widths.iter().enumerate() {
        let block = format!("down_blocks.{b}");
        let crossed = l.crossed("down_block_types", b)?;
        for j in 0..layers {
            let from = if j > 0 {
                *width
            } else {
                widths[b.saturating_sub(1)]
            };
            l.layer(&block, j, from, *width, time, crossed.then_some(cross));
        }
        if b + 1 < widths.len() {
            l.conv(
                &format!("{block}.downsamplers.0.conv"),
                *width,
                *width,
                &[3, 3],
            );
        }
    }
    l.layer("mid_block", 0, last, last, time, Some(cross));
    l.layer("mid_block", 1, last, last, time, None);
    let n = widths.len();
    let up: Vec<usize> = widths.iter().rev().copied().collect();
    for b in 0..n {
        let block = format!("up_blocks.{b}");
        let crossed = l.crossed("up_block_types", b)?;
        for j in 0..=layers {
            let skip = if j == layers {
                up[(b + 1).min(n - 1)]
            } else {
                up[b]
            };
            let from = if j > 0 {
                up[b]
            } else {
                up[b.saturating_sub(1)]
            };
            l.layer(
                &block,
                j,
                from + skip,
                up[b],
                time,
                crossed.then_some(cross),
            );
        }
        if b + 1 < n {
            l.conv(&format!("{block}.upsamplers.0.conv"), up[b], up[b], &[3, 3]);
        }
    }
    l.norm("conv_norm_out", first);
    l.conv("conv_out", output, first, &[3, 3]);
    Some(l.keys)
}

/// `AutoencoderKL`.
pub(crate) fn vae(config: &Value) -> Option<Keys> {
    let mut l = Layout {
        config,
        keys: Vec::new(),
    };
    let widths = l.widths()?;
    let (layers, latent) = (
        l.count("layers_per_block", 1)?,
        l.number("latent_channels", 4)?,
    );
    let (input, output) = (l.number("in_channels", 3)?, l.number("out_channels", 3)?);
    let (first, last, n) = (widths[0], *widths.last()?, widths.len());
    l.conv("encoder.conv_in", first, input, &[3, 3]);
    l.conv("decoder.conv_in", last, latent, &[3, 3]);
    for b in 0..n {
        let block = format!("encoder.down_blocks.{b}");
        for j in 0..layers {
            let from = if j > 0 {
                widths[b]
            } else {
                widths[b.saturating_sub(1)]
            };
            l.residual(&format!("{block}.resnets.{j}"), from, widths[b], None);
        }
        let up = |b: usize| widths[n - 1 - b];
        let block = format!("decoder.up_blocks.{b}");
        for j in 0..=layers {
            let from = if j > 0 {
                up(b)
            } else {
                up(b.saturating_sub(1))
            };
            l.residual(&format!("{block}.resnets.{j}"), from, up(b), None);
        }
        if b + 1 < n {
            l.conv(
                &format!("encoder.down_blocks.{b}.downsamplers.0.conv"),
                widths[b],
                widths[b],
                &[3, 3],
            );
            l.conv(&format!("{block}.upsamplers.0.conv"), up(b), up(b), &[3, 3]);
        }
    }
    for (side, width, channels) in [("encoder", last, latent * 2), ("decoder", first, output)] {
        l.residual(&format!("{side}.mid_block.resnets.0"), last, last, None);
        l.residual(&format!("{side}.mid_block.resnets.1"), last, last, None);
        let name = format!("{side}.mid_block.attentions.0");
        l.norm(&format!("{name}.group_norm"), last);
        for part in ["to_q", "to_k", "to_v", "to_out.0"] {
            l.linear(&format!("{name}.{part}"), last, last);
        }
        l.norm(&format!("{side}.conv_norm_out"), width);
        l.conv(&format!("{side}.conv_out"), channels, width, &[3, 3]);
    }
    l.conv("quant_conv", latent * 2, latent * 2, &[1, 1]);
    l.conv("post_quant_conv", latent, latent, &[1, 1]);
    Some(l.keys)
}

/// `CLIPTextModel`.
pub(crate) fn clip_text(config: &Value) -> Option<Keys> {
    let mut l = Layout {
        config,
        keys: Vec::new(),
    };
    let width = l.number("hidden_size", 512)?;
    let vocabulary = l.number("vocab_size", 49408)?;
    let positions = l.number("max_position_embeddings", 77)?;
    l.weight(
        "text_model.embeddings.token_embedding.weight",
        &[vocabulary, width],
    );
    l.weight(
        "text_model.embeddings.position_embedding.weight",
        &[positions, width],
    );
    l.clip_layers("text_model", width, 2048, 12)?;
    l.norm("text_model.final_layer_norm", width);
    Some(l.keys)
}

/// `CLIPVisionModelWithProjection`.
pub(crate) fn clip_vision(config: &Value) -> Option<Keys> {
    let mut l = Layout {
        config,
        keys: Vec::new(),
    };
    let width = l.number("hidden_size", 768)?;
    let (size, patch) = (l.number("image_size", 224)?, l.number("patch_size", 32)?);
    let tokens = size.checked_div(patch)?.pow(2) + 1;
    let (channels, projection) = (
        l.number("num_channels", 3)?,
        l.number("projection_dim", 512)?,
    );
    l.weight("vision_model.embeddings.class_embedding", &[width]);
    l.weight(
        "vision_model.embeddings.patch_embedding.weight",
        &[width, channels, patch, patch],
    );
    l.weight(
        "vision_model.embeddings.position_embedding.weight",
        &[tokens, width],
    );
    l.norm("vision_model.pre_layrnorm", width);
    l.clip_layers("vision_model", width, 3072, 12)?;
    l.norm("vision_model.post_layernorm", width);
    l.weight("visual_projection.weight", &[projection, width]);
    Some(l.keys)
}

impl Layout<'_> {
    /// A size from the config; absurd ones would only make absurd lists.
    fn number(&self, name: &str, default: usize) -> Option<usize> {
        match &self.config[name] {
            Value::Null => Some(default),
            value => usize::try_from(value.as_u64()?)
                .ok()
                .filter(|n| *n <= 1 << 20),
        }
    }

    /// How often something is repeated. Every repetition has names, so that an absurd number would fill the memory.
    fn count(&self, name: &str, default: usize) -> Option<usize> {
        self.number(name, default).filter(|n| *n <= 256)
    }

    fn widths(&self) -> Option<Vec<usize>> {
        let list = self.config["block_out_channels"].as_array()?;
        let width = |v: &Value| usize::try_from(v.as_u64()?).ok().filter(|n| *n <= 1 << 20);
        (1..=16)
            .contains(&list.len())
            .then(|| list.iter().map(width).collect())?
    }

    fn crossed(&self, list: &str, block: usize) -> Option<bool> {
        Some(
            self.config[list]
                .get(block)?
                .as_str()?
                .starts_with("CrossAttn"),
        )
    }

    fn weight(&mut self, key: &str, shape: &[usize]) {
        self.keys.push((key.to_owned(), shape.to_vec()));
    }

    fn linear(&mut self, key: &str, out: usize, input: usize) {
        self.conv(key, out, input, &[]);
    }

    fn conv(&mut self, key: &str, out: usize, input: usize, kernel: &[usize]) {
        self.weight(&format!("{key}.weight"), &[&[out, input], kernel].concat());
        self.weight(&format!("{key}.bias"), &[out]);
    }

    fn norm(&mut self, key: &str, width: usize) {
        self.weight(&format!("{key}.weight"), &[width]);
        self.weight(&format!("{key}.bias"), &[width]);
    }

    /// Queries, keys and values without bias.
    fn attention(&mut self, key: &str, width: usize, context: usize, inner: usize) {
        self.weight(&format!("{key}.to_q.weight"), &[inner, width]);
        self.weight(&format!("{key}.to_k.weight"), &[inner, context]);
        self.weight(&format!("{key}.to_v.weight"), &[inner, context]);
        self.linear(&format!("{key}.to_out.0"), width, inner);
    }

    fn transformer(&mut self, key: &str, width: usize, inner: usize, context: Option<usize>) {
        self.norm(&format!("{key}.norm"), width);
        self.linear(&format!("{key}.proj_in"), inner, width);
        let block = format!("{key}.transformer_blocks.0");
        for n in 1..=3 {
            self.norm(&format!("{block}.norm{n}"), inner);
        }
        self.attention(&format!("{block}.attn1"), inner, inner, inner);
        self.attention(
            &format!("{block}.attn2"),
            inner,
            context.unwrap_or(inner),
            inner,
        );
        self.linear(&format!("{block}.ff.net.0.proj"), inner * 8, inner);
        self.linear(&format!("{block}.ff.net.2"), inner, inner * 4);
        self.linear(&format!("{key}.proj_out"), width, inner);
    }

    fn residual(&mut self, key: &str, from: usize, to: usize, time: Option<usize>) {
        self.norm(&format!("{key}.norm1"), from);
        self.conv(&format!("{key}.conv1"), to, from, &[3, 3]);
        if let Some(time) = time {
            self.linear(&format!("{key}.time_emb_proj"), to, time);
        }
        self.norm(&format!("{key}.norm2"), to);
        self.conv(&format!("{key}.conv2"), to, to, &[3, 3]);
        if from != to {
            self.conv(&format!("{key}.conv_shortcut"), to, from, &[1, 1]);
        }
    }

    /// One layer of a 3-D block: residual, frame convolutions and, with a context, both attentions.
    fn layer(
        &mut self,
        block: &str,
        j: usize,
        from: usize,
        to: usize,
        time: usize,
        cross: Option<usize>,
    ) {
        self.residual(&format!("{block}.resnets.{j}"), from, to, Some(time));
        for (n, conv) in [(1, 2), (2, 3), (3, 3), (4, 3)] {
            self.norm(&format!("{block}.temp_convs.{j}.conv{n}.0"), to);
            self.conv(
                &format!("{block}.temp_convs.{j}.conv{n}.{conv}"),
                to,
                to,
                &[3, 1, 1],
            );
        }
        if cross.is_some() {
            self.transformer(&format!("{block}.attentions.{j}"), to, to, cross);
            self.transformer(&format!("{block}.temp_attentions.{j}"), to, to, None);
        }
    }

    fn clip_layers(
        &mut self,
        model: &str,
        width: usize,
        hidden: usize,
        layers: usize,
    ) -> Option<()> {
        let hidden = self.number("intermediate_size", hidden)?;
        for i in 0..self.count("num_hidden_layers", layers)? {
            let layer = format!("{model}.encoder.layers.{i}");
            for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                self.linear(&format!("{layer}.self_attn.{part}"), width, width);
            }
            self.norm(&format!("{layer}.layer_norm1"), width);
            self.linear(&format!("{layer}.mlp.fc1"), hidden, width);
            self.linear(&format!("{layer}.mlp.fc2"), width, hidden);
            self.norm(&format!("{layer}.layer_norm2"), width);
        }
        Some(())
    }
}
