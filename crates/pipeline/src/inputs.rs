//! What a video is made from.

use image::RgbImage;

use crate::{Embeds, PipelineError};

/// The pictures of a run: one for each prompt, or one for all.
#[derive(Clone, Copy, Debug)]
pub struct Images<'a>(pub(crate) &'a [RgbImage]);

impl<'a> From<&'a RgbImage> for Images<'a> {
    fn from(image: &'a RgbImage) -> Self {
        Self(std::slice::from_ref(image))
    }
}

impl<'a> From<&'a [RgbImage]> for Images<'a> {
    fn from(images: &'a [RgbImage]) -> Self {
        Self(images)
    }
}

impl<'a> From<&'a Vec<RgbImage>> for Images<'a> {
    fn from(images: &'a Vec<RgbImage>) -> Self {
        Self(images)
    }
}

/// Sentences, or what the text encoder made of them (diffusers' `prompt` and `prompt_embeds`).
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// One or many.
    Texts(Vec<String>),
    /// Of as many prompts as it has rows.
    Embeds(Embeds),
}

impl Prompt {
    /// How many videos it describes.
    pub fn count(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.len(),
            Self::Embeds(embeds) => embeds.shape[0],
        }
    }
}

impl Default for Prompt {
    /// An empty sentence.
    fn default() -> Self {
        Self::from("")
    }
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Self::Texts(vec![text.to_owned()])
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Self {
        Self::Texts(vec![text])
    }
}

impl From<&String> for Prompt {
    fn from(text: &String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<Vec<String>> for Prompt {
    fn from(texts: Vec<String>) -> Self {
        Self::Texts(texts)
    }
}

impl From<&[&str]> for Prompt {
    fn from(texts: &[&str]) -> Self {
        Self::Texts(texts.iter().map(|t| (*t).to_owned()).collect())
    }
}

impl From<&Prompt> for Prompt {
    fn from(prompt: &Prompt) -> Self {
        prompt.clone()
    }
}

impl From<Embeds> for Prompt {
    fn from(embeds: Embeds) -> Self {
        Self::Embeds(embeds)
    }
}

/// Refuses counts that do not match; `guided` says whether the negative prompt matters.
pub(crate) fn check(
    images: Images<'_>,
    prompt: &Prompt,
    negative: &Prompt,
    guided: bool,
) -> Result<(), PipelineError> {
    let fail = |name, problem: String| Err(PipelineError::Option { name, problem });
    let prompts = prompt.count();
    if prompts == 0 {
        return fail("prompt", "there is none; give at least one".into());
    }
    let count = images.0.len();
    if count != prompts && count != 1 {
        return fail(
            "image",
            format!(
                "{count} images for {prompts} prompts; give one image for each prompt, or one for all"
            ),
        );
    }
    if images.0.iter().any(|i| i.width() == 0 || i.height() == 0) {
        return fail("image", "has no pixels; give another image".into());
    }
    check_prompts(prompt, negative, guided)
}

/// Refuses counts of negative prompts that do not match, and embeddings that are not finite.
pub(crate) fn check_prompts(
    prompt: &Prompt,
    negative: &Prompt,
    guided: bool,
) -> Result<(), PipelineError> {
    let fail = |name, problem: String| Err(PipelineError::Option { name, problem });
    let prompts = prompt.count();
    if prompts == 0 {
        return fail("prompt", "there is none; give at least one".into());
    }
    if let Prompt::Embeds(embeds) = prompt {
        embeds.check("prompt_embeds")?;
    }
    if !guided {
        return Ok(());
    }
    let negatives = negative.count();
    if negatives != prompts && negatives != 1 {
        return fail(
            "negative_prompt",
            format!(
                "{negatives} negative prompts for {prompts} prompts; give one for each prompt, or one for all"
            ),
        );
    }
    if let Prompt::Embeds(embeds) = negative {
        embeds.check("negative_prompt_embeds")?;
    }
    if let (Prompt::Embeds(a), Prompt::Embeds(b)) = (prompt, negative)
        && a.shape[1..] != b.shape[1..]
    {
        return fail(
            "negative_prompt_embeds",
            format!(
                "shape {:?} must be that of prompt_embeds, {:?}",
                b.shape, a.shape
            ),
        );
    }
    Ok(())
}
