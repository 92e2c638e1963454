use std::path::Path;

use i2vgen_checkpoint::Folder;
use i2vgen_pipeline::PipelineError;

use crate::{
    choices::DtypeArg,
    failure::Failure,
    settings::{EMBEDDED, Settings},
};

/// A model folder and what is done with it as a whole: what all jobs of a process share.
pub(crate) struct Model {
    pub(crate) folder: Folder,
    pub(crate) variant: Option<String>,
    pub(crate) device: String,
    pub(crate) keep_resident: bool,
}

impl Model {
    pub(crate) fn open(settings: &Settings, keep_resident: bool) -> Result<Self, Failure> {
        if settings.dtype.unwrap_or_default() != DtypeArg::F32 {
            return Err(Failure::Input(
                "--dtype: this version computes in f32 only; weights of any precision are converted while loading"
                    .into(),
            ));
        }
        let Some(model) = &settings.model else {
            return Err(Failure::Input(
                "--model: is missing; give a model folder, or embedded for the toy model".into(),
            ));
        };
        let folder = match model == Path::new(EMBEDDED) {
            true => i2vgen_demo_model::folder(),
            false => Folder::open(model).map_err(PipelineError::from)?,
        };
        use_threads(settings.threads)?;
        Ok(Self {
            folder,
            variant: settings.variant.clone(),
            device: settings.device.clone().unwrap_or_else(|| "cpu".to_owned()),
            keep_resident,
        })
    }

    /// What one process can have only one of.
    pub(crate) fn key(settings: &Settings) -> Settings {
        Settings {
            model: settings.model.clone(),
            variant: settings.variant.clone(),
            device: settings.device.clone(),
            dtype: settings.dtype,
            threads: settings.threads,
            keep_resident: settings.keep_resident,
            ..Settings::default()
        }
    }
}

/// The CPU backend and everything else here computes on rayon's global threads.
fn use_threads(threads: Option<usize>) -> Result<(), Failure> {
    let Some(threads) = threads else {
        return Ok(());
    };
    let fail = |problem: String| Failure::Input(format!("--threads: {threads} {problem}"));
    if !(1..=1024).contains(&threads) {
        return Err(fail("must be from 1 to 1024".into()));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build_global()
        .map_err(|e| fail(format!("cannot be had ({e}); give fewer")))
}
