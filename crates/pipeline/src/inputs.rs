//! What the denoiser is given besides noise (reference `overview.md` §4–5).

use burn::tensor::{DType, Tensor, TensorData, backend::Backend};
use i2vgen_clip_encoders::CropMode;
use image::RgbImage;
use torch_rng::Generator;

use crate::{Compat, GenerateOptions, ImageLatents, PipelineError, components::Source};

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
}

/// Standard normal numbers from torch's generator.
pub(crate) fn normal<B: Backend, const D: usize>(
    generator: &mut Generator,
    shape: [usize; D],
    dtype: DType,
    device: &B::Device,
) -> Tensor<B, D> {
    let values = generator.randn_f32(shape.iter().product());
    let data = TensorData::new(values, shape);
    Tensor::<B, D>::from_data(data, (device, DType::F32)).cast(dtype)
}

/// Text to context. With guidance the unconditional rows come first.
///
/// # Shapes
/// → `[rows, tokens, width]`, and how many tokens of the prompt did not fit
pub(crate) fn encode_prompt<B: Backend>(
    source: &Source<B>,
    prompt: &str,
    options: &GenerateOptions,
    device: &B::Device,
) -> Result<(Tensor<B, 3>, usize), PipelineError> {
    let mut tokenizer = source.tokenizer()?;
    if options.compat == Compat::VGen {
        tokenizer.pad_token_id = 0;
    }
    let encoder = source.text_encoder(options.clip_skip.unwrap_or(0), device)?;
    let videos = options.num_videos_per_prompt;
    let encode = |text: &str| -> Result<(Tensor<B, 3>, usize), PipelineError> {
        let encoding = tokenizer.encode(text)?;
        let hidden = encoder.forward(encoding.to_tensor(device), options.clip_skip)?;
        Ok((hidden.repeat_dim(0, videos), encoding.cut))
    };
    let (positive, cut) = encode(prompt)?;
    if !options.guided() {
        return Ok((positive, cut));
    }
    let (negative, _) = encode(&options.negative_prompt)?;
    Ok((Tensor::cat(vec![negative, positive], 0), cut))
}

/// Picture to embedding. With guidance the unconditional rows are zero.
///
/// # Shapes
/// → `[rows, 1, width]`
pub(crate) fn encode_image<B: Backend>(
    source: &Source<B>,
    image: &RgbImage,
    options: &GenerateOptions,
    dtype: DType,
    device: &B::Device,
) -> Result<Tensor<B, 3>, PipelineError> {
    let processor = source.feature_extractor()?;
    let crop = options.compat.crop();
    let pixels = processor.preprocess::<B>(image, options.width as u32, crop, device);
    let encoder = source.image_encoder(device)?;
    let embedding = encoder
        .forward(pixels.cast(dtype))?
        .unsqueeze_dim::<3>(1)
        .repeat_dim(0, options.num_videos_per_prompt);
    if !options.guided() {
        return Ok(embedding);
    }
    Ok(Tensor::cat(vec![embedding.zeros_like(), embedding], 0))
}

/// Picture to latents, followed by one constant plane per later frame that says how far along it is.
///
/// # Shapes
/// → `[rows, channels, frames, h, w]`
pub(crate) fn encode_image_latents<B: Backend>(
    source: &Source<B>,
    image: &RgbImage,
    options: &GenerateOptions,
    dtype: DType,
    generator: &mut Generator,
    device: &B::Device,
) -> Result<Tensor<B, 5>, PipelineError> {
    let (width, height) = (options.width as u32, options.height as u32);
    let crop = options.compat.crop();
    let pixels = i2vgen_clip_encoders::vae_pixels::<B>(image, width, height, crop, device);
    let vae = source.vae(device)?;
    let posterior = vae.encode(pixels.cast(dtype))?;
    let latents = match options.image_latents {
        ImageLatents::Mode => posterior.mode(),
        ImageLatents::Sample => {
            let shape = posterior.mode().dims();
            posterior.sample(normal(generator, shape, dtype, device))
        }
    };
    let first = (latents * vae.config.scaling_factor).unsqueeze_dim::<5>(2);
    let [_, channels, _, h, w] = first.dims();
    let frames = options.num_frames;
    let mut planes = vec![first];
    for frame in 1..frames {
        let position = frame as f64 / (frames - 1) as f64;
        planes.push(Tensor::full(
            [1, channels, 1, h, w],
            position,
            (device, dtype),
        ));
    }
    let rows = options.num_videos_per_prompt * if options.guided() { 2 } else { 1 };
    Ok(Tensor::cat(planes, 2).repeat_dim(0, rows))
}
