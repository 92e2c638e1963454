//! The index of a sharded checkpoint, in a folder whose only shard is sound.
#![no_main]

use std::sync::Once;

use i2vgen_weights_converter::{Conversion, inspect};
use libfuzzer_sys::fuzz_target;
use safetensors::{Dtype, tensor::TensorView};

fuzz_target!(|data: &[u8]| {
    static SHARD: Once = Once::new();
    SHARD.call_once(|| {
        let view = TensorView::new(Dtype::F32, vec![1], &[0; 4]).expect("four bytes");
        let shard = safetensors::serialize([("conv_in.bias", view)], None).expect("small");
        i2vgen_fuzz::file("diffusion_pytorch_model-00001-of-00002.safetensors", &shard);
        i2vgen_fuzz::file(
            "config.json",
            br#"{"_class_name": "AutoencoderKL", "block_out_channels": [32]}"#,
        );
    });
    i2vgen_fuzz::file("diffusion_pytorch_model.safetensors.index.json", data);
    let _ = Conversion::folder(&i2vgen_fuzz::folder(), None, None);
    let _ = inspect(&i2vgen_fuzz::folder(), true);
});
