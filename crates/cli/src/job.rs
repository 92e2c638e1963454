use std::path::{Path, PathBuf};

use i2vgen_pipeline::{
    Container, GenerateOptions, OutputType, PipelineError, Prompt, decode_image, open_image,
};
use image::RgbImage;

use crate::{
    continuation::{self, Source},
    failure::Failure,
    second_stage::SecondStage,
    settings::{EMBEDDED, Settings},
};

/// Everything that one run needs besides the model, read and checked as far as is possible without it.
pub(crate) struct Job {
    pub(crate) settings: Settings,
    pub(crate) pictures: Vec<Source>,
    pub(crate) prompt: Prompt,
    pub(crate) options: GenerateOptions,
    pub(crate) output: PathBuf,
    pub(crate) second_stage: Option<SecondStage>,
}

impl Job {
    pub(crate) fn new(settings: Settings) -> Result<Self, Failure> {
        let Some(output) = settings.output.clone() else {
            return Err(Failure::Input(
                "--output: is missing; say where to write, like video.gif".into(),
            ));
        };
        let prompt = settings.prompt()?;
        let options = settings.options()?;
        let videos = prompt.count() * options.num_videos_per_prompt;
        check_outputs(&settings, &output, options.output_type, videos)?;
        Ok(Self {
            pictures: pictures(&settings)?,
            second_stage: SecondStage::new(&settings)?,
            settings,
            prompt,
            options,
            output,
        })
    }

    /// `OUTPUT.json`.
    pub(crate) fn sidecar(&self) -> PathBuf {
        sidecar(&self.output)
    }
}

/// `OUTPUT.json`.
pub(crate) fn sidecar(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".json");
    name.into()
}

fn pictures(settings: &Settings) -> Result<Vec<Source>, Failure> {
    let images = match (&settings.image, &settings.continue_from) {
        (Some(_), Some(_)) => {
            return Err(Failure::Input(
                "--continue-from: takes the place of --image; give only one of them".into(),
            ));
        }
        (None, Some(path)) => return Ok(vec![continuation::source(path)?]),
        (Some(images), None) if !images.is_empty() => images,
        _ => {
            return Err(Failure::Input(
                "--image: is missing; give the first frame, or --continue-from".into(),
            ));
        }
    };
    let open = |path: &PathBuf| Ok(Source::Picture(open(path)?));
    images.iter().map(open).collect()
}

fn open(path: &Path) -> Result<RgbImage, PipelineError> {
    match path == Path::new(EMBEDDED) {
        true => decode_image(i2vgen_demo_model::IMAGE, "embedded picture"),
        false => open_image(path),
    }
}

/// Refuses outputs that cannot be written, before any work, and those that would replace an input or one another.
fn check_outputs(
    settings: &Settings,
    output: &Path,
    kind: OutputType,
    videos: usize,
) -> Result<(), Failure> {
    check_container(output, kind == OutputType::Latent, videos)?;
    let sidecar = sidecar(output);
    let mut outputs = vec![("--output", output), ("--output", &sidecar)];
    let tensors = [
        ("--save-prompt-embeds", &settings.save_prompt_embeds),
        ("--save-latents", &settings.save_latents),
    ];
    for (flag, path) in tensors {
        let Some(path) = path else { continue };
        if !path
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("safetensors"))
        {
            return Err(Failure::Input(format!(
                "{flag}: '{}' must end in .safetensors",
                path.display()
            )));
        }
        if outputs.iter().any(|(_, other)| same(other, path)) {
            return Err(Failure::Input(format!(
                "{flag}: '{}' is another output, too; choose another name",
                path.display()
            )));
        }
        Container::Safetensors.check(path, 1)?;
        outputs.push((flag, path));
    }
    for input in settings.inputs() {
        if let Some((flag, _)) = outputs.iter().find(|(_, output)| same(output, &input)) {
            return Err(Failure::Input(format!(
                "{flag}: '{}' is also an input; choose another name",
                input.display()
            )));
        }
    }
    Ok(())
}

/// Refuses a place where a video, or latents, and a sidecar cannot be written.
pub(crate) fn check_container(output: &Path, latent: bool, videos: usize) -> Result<(), Failure> {
    let container = Container::of(output)?;
    if latent && container != Container::Safetensors {
        return Err(Failure::Input(format!(
            "--output: latents can only be written as .safetensors, not '{}'",
            output.display()
        )));
    }
    let sidecar = sidecar(output);
    if sidecar.is_dir() {
        return Err(Failure::Input(format!(
            "--output: '{}' is a folder, but the sidecar would go there; choose another name",
            sidecar.display()
        )));
    }
    Ok(container.check(output, videos)?)
}

/// Refuses an output, or its sidecar, in the place of an input.
pub(crate) fn check_not_replaced(output: &Path, input: &Path) -> Result<(), Failure> {
    match same(output, input) || same(&sidecar(output), input) {
        true => Err(Failure::Input(format!(
            "--output: '{}' is also an input; choose another name",
            input.display()
        ))),
        false => Ok(()),
    }
}

fn same(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().or_else(|_| std::path::absolute(path));
    matches!((real(a), real(b)), (Ok(a), Ok(b)) if a == b)
}
