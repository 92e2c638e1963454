//! `i2vgen inspect`: what is in a model folder or weight file, and what is wrong with it.

use crate::{args::InspectArgs, failure::Failure};

pub(crate) fn inspect(args: &InspectArgs) -> Result<(), Failure> {
    if let Some(id) = args.path.to_str().filter(|p| i2vgen_hub::is_model_id(p)) {
        return Err(Failure::Input(format!(
            "'{id}' does not exist; for a model on the Hub: i2vgen inspect \"$(i2vgen pull {id})\""
        )));
    }
    let problem = |e: &dyn std::fmt::Display| Failure::Input(e.to_string());
    let report =
        i2vgen_weights_converter::inspect(&args.path, args.deep).map_err(|e| problem(&e))?;
    if args.json {
        let json = serde_json::to_string_pretty(&report).map_err(|e| problem(&e))?;
        println!("{json}");
    } else {
        print!("{report}");
    }
    match report.is_sound() {
        true => Ok(()),
        false => Err(Failure::Input("there are problems, see above".to_owned())),
    }
}
