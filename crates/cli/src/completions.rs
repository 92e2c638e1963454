//! `i2vgen completions`: what a shell needs to complete this command line.

use std::io::Write;

use clap::CommandFactory;

use crate::{
    args::{Cli, CompletionsArgs},
    failure::Failure,
};

pub(crate) fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "i2vgen", &mut script);
    let written = std::io::stdout().write_all(&script);
    written.map_err(|e| Failure::Input(format!("the completions could not be written: {e}")))
}
