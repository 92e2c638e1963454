//! The weights of a diffusers folder, as the pipeline reads them. With an even first byte the rest is the only weight file, with an odd
//! one the index of a shard that is sound.
#![no_main]

use i2vgen_checkpoint::{Folder, Stem, Weights};
use libfuzzer_sys::{Corpus, fuzz_target};
use safetensors::{Dtype, tensor::TensorView};

const SHARD: &str = "diffusion_pytorch_model-00001-of-00002.safetensors";
const INDEX: &str = "diffusion_pytorch_model.safetensors.index.json";

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some((mode, rest)) = data.split_first() else {
        return Corpus::Reject;
    };
    let folder = i2vgen_fuzz::folder();
    if mode % 2 == 0 {
        let _ = std::fs::remove_file(folder.join(INDEX));
        i2vgen_fuzz::file("diffusion_pytorch_model.safetensors", rest);
    } else {
        let view = TensorView::new(Dtype::F32, vec![1], &[0; 4]).expect("four bytes");
        let shard = safetensors::serialize([("conv_in.bias", view)], None).expect("small");
        i2vgen_fuzz::file(SHARD, &shard);
        i2vgen_fuzz::file(INDEX, rest);
    }
    let Ok(folder) = Folder::open(&folder) else {
        return Corpus::Keep;
    };
    if let Ok(weights) = Weights::open(&folder, Stem::Diffusers, None) {
        for (name, entry) in weights.tensors().take(64) {
            if let Ok(values) = weights.read(name) {
                assert_eq!(values.len(), entry.shape.iter().product::<usize>());
            }
        }
    }
    Corpus::Keep
});
