use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use burn::tensor::backend::Backend;
use i2vgen_checkpoint::Folder;
use i2vgen_pipeline::{I2VGenXLPipeline, PipelineError};

use crate::{
    choices::DtypeArg,
    failure::Failure,
    pull::fetch,
    settings::{EMBEDDED, Settings},
};

/// A model folder and what is done with it as a whole: what all jobs of a process share.
pub(crate) struct Model {
    pub(crate) folder: Folder,
    pub(crate) variant: Option<String>,
    /// Of a downloaded model: the commit, even if a branch was asked for.
    pub(crate) revision: Option<String>,
    pub(crate) device: String,
    pub(crate) dtype: DtypeArg,
    pub(crate) keep_resident: bool,
}

impl Model {
    pub(crate) fn open(
        settings: &Settings,
        keep_resident: bool,
        quiet: bool,
    ) -> Result<Self, Failure> {
        let Some(model) = &settings.model else {
            return Err(Failure::Input(
                "--model: is missing; give a model folder, or a name like ali-vilab/i2vgen-xl"
                    .into(),
            ));
        };
        use_threads(settings.threads)?;
        let mut revision = settings.revision.clone();
        let id = model.to_str().filter(|name| i2vgen_hub::is_model_id(name));
        let folder = if model == Path::new(EMBEDDED) {
            i2vgen_demo_model::folder()
        } else if let Some(id) = id {
            let (variant, offline) = (settings.variant.clone(), settings.offline == Some(true));
            let path = fetch(id, variant, revision, offline, quiet)?;
            // The cache calls the folder as the commit.
            revision = path.file_name().map(|n| n.to_string_lossy().into_owned());
            Folder::open(path).map_err(PipelineError::from)?
        } else {
            Folder::open(model).map_err(PipelineError::from)?
        };
        Ok(Self {
            folder,
            variant: settings.variant.clone(),
            revision,
            device: settings.device.clone().unwrap_or_else(|| "cpu".to_owned()),
            dtype: settings.dtype.unwrap_or_default(),
            keep_resident,
        })
    }

    /// To be loaded stage by stage.
    pub(crate) fn pipeline<B: Backend>(
        &self,
        device: &B::Device,
    ) -> Result<I2VGenXLPipeline<B>, PipelineError> {
        self.check_dtype::<B>(device)?;
        let (folder, variant) = (self.folder.clone(), self.variant.as_deref());
        I2VGenXLPipeline::from_folder(folder, variant, self.dtype.into(), device)
    }

    /// Whether the device computes in the precision that is asked for.
    pub(crate) fn check_dtype<B: Backend>(&self, device: &B::Device) -> Result<(), PipelineError> {
        if B::supports_dtype(device, self.dtype.into()) {
            return Ok(());
        }
        let (dtype, device) = (format!("{:?}", self.dtype).to_lowercase(), &self.device);
        Err(PipelineError::Option {
            name: "dtype",
            problem: format!("{device} does not compute in {dtype}; use another, like f32"),
        })
    }

    /// What one process can have only one of.
    pub(crate) fn key(settings: &Settings) -> Settings {
        Settings {
            model: settings.model.clone(),
            variant: settings.variant.clone(),
            revision: settings.revision.clone(),
            offline: settings.offline,
            device: settings.device.clone(),
            dtype: settings.dtype,
            threads: settings.threads,
            keep_resident: settings.keep_resident,
            ..Settings::default()
        }
    }
}

/// The CPU backend and everything else here computes on rayon's global threads, which the first model starts.
fn use_threads(threads: Option<usize>) -> Result<(), Failure> {
    let fail = |problem: String| {
        let threads = threads.unwrap_or_default();
        Failure::Input(format!("--threads: {threads} {problem}"))
    };
    if threads.is_some_and(|threads| !(1..=1024).contains(&threads)) {
        return Err(fail("must be from 1 to 1024".into()));
    }
    static STARTED: AtomicBool = AtomicBool::new(false);
    if STARTED.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    // A run goes on one of these threads, and expects the stack of a main one.
    let pool = rayon::ThreadPoolBuilder::new().stack_size(8 << 20);
    pool.num_threads(threads.unwrap_or(0))
        .build_global()
        .map_err(|e| fail(format!("cannot be had ({e}); give fewer")))
}
