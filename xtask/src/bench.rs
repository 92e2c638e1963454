//! `cargo xtask bench`: rates of the kernels on this machine.

use std::{error::Error, process::Command};

use clap::Subcommand;

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Processor time, GFLOP/s and the ratio to a plain matrix product, per kernel and shape of the real model
    Cpu {
        /// Only shapes whose name contains this: `conv`, `linear 512`, `memory`
        #[arg(default_value = "")]
        filter: String,
    },
}

impl Bench {
    pub(crate) fn run(self) -> Result<(), Box<dyn Error>> {
        let Self::Cpu { filter } = self;
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let run = "run --release --package i2vgen-kernels --example cpu_rates --";
        let status = Command::new(cargo)
            .args(run.split(' '))
            .arg(filter)
            .status();
        let status = status.map_err(|error| format!("cargo cannot be run: {error}"))?;
        match status.success() {
            true => Ok(()),
            false => Err(format!("the benchmark ended with {status}").into()),
        }
    }
}
