//! `config.json` of every component.
#![no_main]

use i2vgen_weights_converter::Component;
use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(config) = serde_json::from_slice(data) else {
        return Corpus::Reject;
    };
    for component in Component::ALL {
        let _ = component.layout(&config);
    }
    Corpus::Keep
});
