//! safetensors files. With an even first byte the rest is the file, with an odd one its header, before 64 bytes of values.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some((mode, rest)) = data.split_first() else {
        return Corpus::Reject;
    };
    let bytes = if mode % 2 == 0 {
        rest.to_vec()
    } else {
        let values: Vec<u8> = (0..64).collect();
        [&(rest.len() as u64).to_le_bytes(), rest, &values].concat()
    };
    i2vgen_fuzz::read(&i2vgen_fuzz::file("model.safetensors", &bytes));
    Corpus::Keep
});
