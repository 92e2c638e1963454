//! What the denoiser is given besides noise (reference `overview.md` §4–5).

use burn::tensor::{DType, Tensor, backend::Backend};
use i2vgen_clip_encoders::{CropMode, apply_weights};

use crate::{
    Compat, GenerateOptions, ImageLatents, Images, PipelineError, Prompt, components::Source,
    generators::Generators,
};

impl Compat {
    pub(crate) fn crop(self) -> CropMode {
        match self {
            Self::Corrected => CropMode::Corrected,
            Self::Diffusers | Self::VGen => CropMode::Reference,
        }
    }

    pub(crate) fn concat_gain(self) -> f64 {
        match self {
            Self::Corrected | Self::Diffusers => 1.0,
            Self::VGen => 2.0,
        }
    }

    /// Which prompt's picture a video gets its latents from. diffusers repeats them as a whole, but texts and embeddings one
    /// by one, and so mixes them up where there are several of both.
    fn picture_of(self, video: usize, prompts: usize, videos_per_prompt: usize) -> usize {
        match self {
            Self::Diffusers => video % prompts,
            Self::Corrected | Self::VGen => video / videos_per_prompt,
        }
    }
}

/// What the text encoder made of prompts, one row for each (diffusers `encode_prompt`).
#[derive(Clone, Debug)]
pub struct EncodedPrompt<B: Backend> {
    /// `[prompts, tokens, width]`
    pub prompt_embeds: Tensor<B, 3>,
    /// The same shape; none without guidance.
    pub negative_prompt_embeds: Option<Tensor<B, 3>>,
    /// Most tokens of one prompt that the text encoder has no room for.
    pub cut_tokens: usize,
}

impl<B: Backend> EncodedPrompt<B> {
    /// The context of all videos; with guidance the unconditional rows come first.
    ///
    /// # Shapes
    /// → `[rows, tokens, width]`
    pub(crate) fn context(&self, videos_per_prompt: usize) -> Tensor<B, 3> {
        let positive = each_repeated(&self.prompt_embeds, videos_per_prompt);
        match &self.negative_prompt_embeds {
            Some(negative) => Tensor::cat(
                vec![each_repeated(negative, videos_per_prompt), positive],
                0,
            ),
            None => positive,
        }
    }
}

/// Rows a, b become a, a, b, b.
fn each_repeated<B: Backend, const D: usize>(x: &Tensor<B, D>, times: usize) -> Tensor<B, D> {
    let rows = (0..x.dims()[0]).map(|row| x.clone().narrow(0, row, 1).repeat_dim(0, times));
    Tensor::cat(rows.collect(), 0)
}

/// Text to embeddings. The text encoder is not even loaded if all embeddings are given.
pub(crate) fn encode_prompt<B: Backend>(
    source: &Source<B>,
    prompt: &Prompt,
    options: &GenerateOptions,
    device: &B::Device,
) -> Result<EncodedPrompt<B>, PipelineError> {
    let negative = options.guided().then_some(&options.negative_prompt);
    // The other prompt's length, if that is given in embeddings.
    let length = [Some(prompt), negative].into_iter().find_map(|p| match p {
        Some(Prompt::Embeds(embeds)) => Some(embeds.shape[1]),
        _ => None,
    });
    let texts = |prompt: Option<&'_ Prompt>| match prompt {
        Some(Prompt::Texts(texts)) => texts.clone(),
        _ => Vec::new(),
    };
    let (positive_texts, negative_texts) = (texts(Some(prompt)), texts(negative));
    let mut cut_tokens = 0;
    let mut rows = Vec::new();
    if positive_texts.len() + negative_texts.len() > 0 {
        let mut tokenizer = source.tokenizer()?;
        if options.compat == Compat::VGen {
            tokenizer.pad_token_id = 0;
        }
        tokenizer.model_max_length = length.unwrap_or(tokenizer.model_max_length);
        let (mut ids, mut weights) = (Vec::new(), Vec::new());
        for (i, text) in positive_texts.iter().chain(&negative_texts).enumerate() {
            let encoding = match options.prompt_weighting {
                false => tokenizer.encode(text)?,
                true => {
                    let weighted = tokenizer.encode_weighted(text)?;
                    weights.push(weighted.weights);
                    weighted.encoding
                }
            };
            if i < positive_texts.len() {
                cut_tokens = cut_tokens.max(encoding.cut);
            }
            ids.push(encoding.to_tensor(device));
        }
        // All texts at once: on the CPU most of the time goes to reading the weights.
        let model = source.text_encoder(options, device)?;
        let encoded = model.forward(Tensor::cat(ids, 0), options.clip_skip)?;
        for i in 0..encoded.dims()[0] {
            let row = encoded.clone().narrow(0, i, 1);
            rows.push(match weights.get(i) {
                Some(weights) => apply_weights(row, weights)?,
                None => row,
            });
        }
    }
    let mut rows = rows.into_iter();
    let mut embeds = |prompt: &Prompt| match prompt {
        Prompt::Embeds(embeds) => embeds.to_tensor(source.dtype(), device),
        Prompt::Texts(texts) => Tensor::cat(rows.by_ref().take(texts.len()).collect(), 0),
    };
    let prompt_embeds = embeds(prompt);
    let negative_prompt_embeds = negative.map(embeds);
    let prompts = prompt.count();
    Ok(EncodedPrompt {
        prompt_embeds,
        // One negative prompt serves all.
        negative_prompt_embeds: negative_prompt_embeds.map(|x| match x.dims()[0] {
            rows if rows < prompts => x.repeat_dim(0, prompts),
            _ => x,
        }),
        cut_tokens,
    })
}

/// Pictures to embeddings. With guidance the unconditional rows are zero.
///
/// # Shapes
/// → `[rows, 1, width]`
pub(crate) fn encode_images<B: Backend>(
    source: &Source<B>,
    images: Images<'_>,
    prompts: usize,
    options: &GenerateOptions,
    device: &B::Device,
) -> Result<Tensor<B, 3>, PipelineError> {
    let processor = source.feature_extractor()?;
    let crop = options.compat.crop();
    let encoder = source.image_encoder(device)?;
    let mut rows = Vec::new();
    for image in images.0 {
        let pixels = processor.preprocess::<B>(image, options.width as u32, crop, device);
        let row = encoder.forward(pixels)?.unsqueeze_dim::<3>(1);
        rows.push(row.repeat_dim(0, options.num_videos_per_prompt));
    }
    let mut embeddings = Tensor::cat(rows, 0);
    if images.0.len() < prompts {
        embeddings = embeddings.repeat_dim(0, prompts);
    }
    if !options.guided() {
        return Ok(embeddings);
    }
    Ok(Tensor::cat(vec![embeddings.zeros_like(), embeddings], 0))
}

/// Pictures to latents, followed by one constant plane per later frame that says how far along it is.
///
/// # Shapes
/// → `[videos, channels, frames, h, w]`, in f32
pub(crate) fn encode_image_latents<B: Backend>(
    source: &Source<B>,
    images: Images<'_>,
    prompts: usize,
    options: &GenerateOptions,
    generators: &mut Generators,
    device: &B::Device,
) -> Result<Tensor<B, 5>, PipelineError> {
    let (width, height) = (options.width as u32, options.height as u32);
    let crop = options.compat.crop();
    let vae = source.vae(options, device)?;
    let mut posteriors = Vec::new();
    for image in images.0 {
        let pixels = i2vgen_clip_encoders::vae_pixels::<B>(image, width, height, crop, device);
        posteriors.push(vae.encode(pixels)?);
    }
    let posterior = |prompt: usize| &posteriors[prompt.min(posteriors.len() - 1)];
    let per_prompt = options.num_videos_per_prompt;
    let videos = prompts * per_prompt;
    let picture_of = |video| options.compat.picture_of(video, prompts, per_prompt);
    let [_, channels, h, w] = posterior(0).mode().dims();
    let of_prompts: Vec<Tensor<B, 4>> = match options.image_latents {
        ImageLatents::Mode => (0..prompts).map(|p| posterior(p).mode()).collect(),
        ImageLatents::Sample if generators.is_shared() => {
            let noise = generators.normal([prompts, channels, h, w], device);
            let noise = |prompt| noise.clone().narrow(0, prompt, 1);
            (0..prompts)
                .map(|p| posterior(p).sample(noise(p)))
                .collect()
        }
        ImageLatents::Sample => Vec::new(),
    };
    let of_videos: Vec<Tensor<B, 4>> = if of_prompts.is_empty() {
        let noise = generators.normal([videos, channels, h, w], device);
        let noise = |video| noise.clone().narrow(0, video, 1);
        let sample = |video| posterior(picture_of(video)).sample(noise(video));
        (0..videos).map(sample).collect()
    } else {
        (0..videos)
            .map(|v| of_prompts[picture_of(v)].clone())
            .collect()
    };
    let latents = Tensor::cat(of_videos, 0) * vae.config.scaling_factor;
    let mut planes = vec![latents.unsqueeze_dim::<5>(2)];
    let frames = options.num_frames;
    for frame in 1..frames {
        let position = frame as f64 / (frames - 1) as f64;
        let shape = [videos, channels, 1, h, w];
        planes.push(Tensor::full(shape, position, (device, DType::F32)));
    }
    Ok(Tensor::cat(planes, 2))
}
