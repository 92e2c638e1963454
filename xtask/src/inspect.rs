//! `cargo xtask inspect PATH`.

use std::{error::Error, path::PathBuf};

use clap::Args;

#[derive(Args)]
pub(crate) struct Inspect {
    /// A model folder, a component folder, or a weight file (.pth .pt .ckpt .bin .safetensors)
    path: PathBuf,
    /// Read all values and look for infinities and NaN
    #[arg(long)]
    deep: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(crate) fn run(self) -> Result<(), Box<dyn Error>> {
        let report = i2vgen_weights_converter::inspect(&self.path, self.deep)?;
        match self.json {
            true => println!("{}", serde_json::to_string_pretty(&report)?),
            false => print!("{report}"),
        }
        match report.is_sound() {
            true => Ok(()),
            false => Err("there are problems, see above".into()),
        }
    }
}
