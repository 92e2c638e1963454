//! `cargo xtask inspect FILE`.

use std::{collections::BTreeMap, error::Error, path::PathBuf};

use clap::Args;
use i2vgen_weights_converter::Source;

#[derive(Args)]
pub(crate) struct Inspect {
    /// A weight file (.pth .pt .ckpt .bin .safetensors)
    path: PathBuf,
}

impl Inspect {
    pub(crate) fn run(self) -> Result<(), Box<dyn Error>> {
        let source = Source::open(&self.path)?;
        let mut dtypes = BTreeMap::<String, usize>::new();
        let mut parameters = 0;
        for tensor in source.tensors.values() {
            *dtypes.entry(format!("{:?}", tensor.dtype)).or_default() += 1;
            parameters += tensor.shape.iter().product::<usize>();
        }
        let components = source.components();
        let names: Vec<&str> = components.iter().map(|c| c.folder()).collect();
        let dtypes: Vec<String> = dtypes.iter().map(|(d, n)| format!("{n} {d}")).collect();
        println!("format      {:?}", source.format);
        println!(
            "components  {}",
            if names.is_empty() {
                "none of this model".into()
            } else {
                names.join(", ")
            }
        );
        println!(
            "tensors     {} ({})",
            source.tensors.len(),
            dtypes.join(", ")
        );
        println!("parameters  {parameters}");
        if !names.is_empty() {
            println!(
                "convert     cargo xtask convert file {} --output DIR",
                self.path.display()
            );
        }
        Ok(())
    }
}
