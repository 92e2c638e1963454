//! Settings to the library's options, and back.

use i2vgen_pipeline::{
    FreeU, GenerateOptions, HostTensor, Lora, Prompt, SaveOptions, Tiling, VaeTiling,
};

use crate::{choices::MemoryArg, failure::Failure, settings::Settings, tensors};

impl Settings {
    /// What happens, in words or embeddings.
    pub(crate) fn prompt(&self) -> Result<Prompt, Failure> {
        let given = one_of(
            "prompt",
            self.prompt.as_ref(),
            self.prompt_embeds
                .as_ref()
                .map(|path| HostTensor::read_named(path, tensors::PROMPT_EMBEDS, "prompt_embeds")),
        )?;
        given.ok_or_else(|| {
            Failure::Input("--prompt: is missing; say what happens, or give --prompt-embeds".into())
        })
    }

    /// Everything else that the library is told. Files of embeddings and latents are read.
    pub(crate) fn options(&self) -> Result<GenerateOptions, Failure> {
        let mut options = GenerateOptions::default();
        let negative = one_of(
            "negative-prompt",
            self.negative_prompt.as_ref(),
            self.negative_prompt_embeds.as_ref().map(|path| {
                let name = tensors::NEGATIVE_PROMPT_EMBEDS;
                HostTensor::read_named(path, name, "negative_prompt_embeds")
            }),
        )?;
        set(&mut options.negative_prompt, negative);
        set(&mut options.height, self.height);
        set(&mut options.width, self.width);
        set(&mut options.target_fps, self.target_fps);
        set(&mut options.num_frames, self.num_frames);
        set(&mut options.num_inference_steps, self.num_inference_steps);
        set(&mut options.guidance_scale, self.guidance_scale);
        set(&mut options.guidance_start, self.guidance_start);
        set(&mut options.guidance_end, self.guidance_end);
        set(&mut options.guidance_rescale, self.guidance_rescale);
        set(&mut options.cache_interval, self.cache_interval);
        let memory = self.memory.unwrap_or_default();
        options.split_guidance = self.split_guidance.unwrap_or(memory != MemoryArg::Normal);
        options.stream_unet = self.stream_unet.unwrap_or(memory == MemoryArg::Min);
        set(&mut options.eta, self.eta);
        set(
            &mut options.num_videos_per_prompt,
            self.num_videos_per_prompt,
        );
        set(&mut options.decode_chunk_size, self.decode_chunk_size);
        set(&mut options.clip_skip, self.clip_skip.map(Some));
        match self.seed.as_deref() {
            None | Some([]) => {}
            Some([seed]) => options.seed = Some(*seed),
            Some(seeds) => options.seeds = seeds.to_vec(),
        }
        options.latents = self
            .latents
            .as_deref()
            .map(tensors::read_noise)
            .transpose()?;
        if let Some(name) = &self.scheduler {
            let known = i2vgen_schedulers::class_name(name);
            known.map_err(|e| Failure::Input(format!("--scheduler: {e}")))?;
            options.scheduler = Some(name.clone());
        }
        options.scheduler_options.karras_sigmas = self.karras_sigmas;
        options.scheduler_options.solver_order = self.solver_order;
        options.freeu = self.freeu.map(|[s1, s2, b1, b2]| FreeU { s1, s2, b1, b2 });
        options.vae_tiling = self.tiling()?;
        options.vae_slicing = self.vae_slicing.unwrap_or(memory != MemoryArg::Normal);
        options.preview_every = self.preview_every;
        for lora in self.lora.iter().flatten() {
            let open = Lora::open(&lora.path, lora.strength);
            let lora = open.map_err(|e| Failure::Input(format!("--lora: {e}")))?;
            options.loras.files.push(lora);
        }
        set(&mut options.loras.lora_scale, self.lora_scale);
        set(&mut options.loras.allow_unknown, self.allow_unknown);
        set(
            &mut options.image_latents,
            self.image_latents.map(Into::into),
        );
        set(&mut options.compat, self.compat.map(Into::into));
        set(&mut options.output_type, self.output_type.map(Into::into));
        set(&mut options.prompt_weighting, self.prompt_weighting);
        Ok(options)
    }

    /// A size alone turns tiles on, too.
    fn tiling(&self) -> Result<Option<VaeTiling>, Failure> {
        let on = self.vae_tiling.unwrap_or(self.vae_tile_size.is_some());
        Ok(match (on, self.vae_tile_size, self.vae_tile_overlap) {
            (false, ..) => None,
            (true, None, None) => Some(VaeTiling::Config),
            (true, Some(size), overlap) => Some(VaeTiling::Tiles(Tiling {
                tile_sample_min_size: [size; 2],
                tile_overlap_factor: overlap.unwrap_or(0.25),
            })),
            (true, None, Some(_)) => {
                return Err(Failure::Input(
                    "--vae-tile-overlap: needs a size as well; give --vae-tile-size".into(),
                ));
            }
        })
    }

    /// With every default said, for a run that has had these options and seeds.
    pub(crate) fn completed(&self, options: &GenerateOptions, seeds: &[u64]) -> Self {
        Self {
            device: Some(self.device.clone().unwrap_or_else(|| "cpu".to_owned())),
            dtype: Some(self.dtype.unwrap_or_default()),
            height: Some(options.height),
            width: Some(options.width),
            target_fps: Some(options.target_fps),
            num_frames: Some(options.num_frames),
            num_inference_steps: Some(options.num_inference_steps),
            guidance_scale: Some(options.guidance_scale),
            guidance_start: Some(options.guidance_start),
            guidance_end: Some(options.guidance_end),
            guidance_rescale: Some(options.guidance_rescale),
            cache_interval: Some(options.cache_interval),
            split_guidance: Some(options.split_guidance),
            stream_unet: Some(options.stream_unet),
            memory: Some(self.memory.unwrap_or_default()),
            eta: Some(options.eta),
            num_videos_per_prompt: Some(options.num_videos_per_prompt),
            decode_chunk_size: Some(options.decode_chunk_size),
            clip_skip: options.clip_skip,
            vae_tiling: Some(options.vae_tiling.is_some()),
            vae_slicing: Some(options.vae_slicing),
            seed: Some(seeds.to_vec()),
            image_latents: Some(self.image_latents.unwrap_or_default()),
            compat: Some(self.compat.unwrap_or_default()),
            prompt_weighting: Some(options.prompt_weighting),
            output_type: Some(self.output_type.unwrap_or_default()),
            gif_palette: Some(self.gif_palette.unwrap_or_default()),
            gif_dither: Some(self.gif_dither.unwrap_or_default()),
            ..self.clone().with_absolute_paths()
        }
    }

    /// How files are written; `metadata` goes inside of them.
    pub(crate) fn save_options(&self, metadata: Option<String>) -> SaveOptions {
        SaveOptions {
            gif_palette: self.gif_palette.unwrap_or_default().into(),
            gif_dither: self.gif_dither.unwrap_or_default().into(),
            metadata,
            ..SaveOptions::default()
        }
    }
}

fn set<T>(option: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *option = value;
    }
}

/// Words or embeddings, but not both.
fn one_of(
    flag: &str,
    texts: Option<&Vec<String>>,
    embeds: Option<Result<i2vgen_pipeline::Embeds, i2vgen_pipeline::PipelineError>>,
) -> Result<Option<Prompt>, Failure> {
    Ok(match (texts, embeds) {
        (Some(_), Some(_)) => {
            return Err(Failure::Input(format!(
                "--{flag}-embeds: takes the place of --{flag}; give only one of them"
            )));
        }
        (Some(texts), None) => Some(texts.clone().into()),
        (None, Some(embeds)) => Some(embeds?.into()),
        (None, None) => None,
    })
}
