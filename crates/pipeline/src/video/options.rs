use crate::PipelineError;

/// How a video is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaveOptions {
    /// Which frames share a GIF's 256 colours.
    pub gif_palette: GifPalette,
    /// What is done about colours that a GIF's palette lacks.
    pub gif_dither: GifDither,
    /// Of MP4, 0 (small) to 100 (best). All other formats lose nothing but 8-bit rounding and a GIF's colours.
    pub quality: u8,
    /// How the video was made: a text, usually JSON, that is put inside the file where its format has a place (all but
    /// `.npy`). Without control characters except tab and line feed; JSON escapes them.
    pub metadata: Option<String>,
}

impl Default for SaveOptions {
    fn default() -> Self {
        Self {
            gif_palette: GifPalette::Global,
            gif_dither: GifDither::FloydSteinberg,
            quality: 90,
            metadata: None,
        }
    }
}

impl SaveOptions {
    pub(super) fn check(&self) -> Result<(), PipelineError> {
        let fail = |name, problem: &str| {
            let problem = problem.into();
            Err(PipelineError::Option { name, problem })
        };
        if self.quality > 100 {
            return fail("quality", "must be from 0 to 100");
        }
        // XML and PNG cannot hold them.
        let forbidden = |c: char| c.is_control() && c != '\n' && c != '\t';
        if self.metadata.iter().any(|text| text.contains(forbidden)) {
            return fail(
                "metadata",
                "holds control characters; escape them as JSON does",
            );
        }
        Ok(())
    }
}

/// Which frames share a palette.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GifPalette {
    /// One for the whole video: smaller files, and still areas stay still.
    #[default]
    Global,
    /// One for each frame: more colours in all, but they can flicker.
    PerFrame,
}

/// How missing colours are imitated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GifDither {
    /// Not: the nearest colour. Smaller files; smooth areas show bands.
    None,
    /// By spreading each pixel's error over the neighbours that follow (Floyd and Steinberg, 1976).
    #[default]
    FloydSteinberg,
}
