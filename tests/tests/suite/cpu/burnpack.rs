//! `convert --to burnpack`: burn's own reader finds the tensors that are in the safetensors beside.

use std::{collections::BTreeMap, path::Path};

use burn::{backend::Flex, module::Module, tensor::Tensor};
use burn_store::{BurnpackStore, ModuleSnapshot, ModuleStore};
use i2vgen_checkpoint::Folder;
use i2vgen_vae::AutoencoderKL;
use i2vgen_weights_converter::{Conversion, Options, Trio};
use safetensors::{Dtype, SafeTensors};

#[test]
fn burn_reads_what_was_written() {
    let originals =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../weights-converter/tests/goldens/originals");
    let file = |name| Some(originals.join(name));
    let trio = Trio {
        unet: file("unet.pth"),
        vae: file("vae.ckpt"),
        clip: file("clip.bin"),
    };
    let dir = tempfile::tempdir().expect("a folder");
    for dtype in [None, Some(Dtype::F16), Some(Dtype::BF16)] {
        let output = dir.path().join(format!("{dtype:?}"));
        let options = Options {
            burnpack: true,
            dtype,
            ..Options::default()
        };
        let conversion =
            Conversion::trio(&trio, Some(&originals.join("configs")), None).expect("opens");
        conversion
            .write(&output, &options, &mut |_| {})
            .expect("converts");
        for (part, stem) in [
            ("unet", "diffusion_pytorch_model"),
            ("vae", "diffusion_pytorch_model"),
            ("text_encoder", "model"),
            ("image_encoder", "model"),
        ] {
            let path = output.join(part).join(stem);
            let bytes = std::fs::read(path.with_extension("safetensors")).expect("readable");
            let file = SafeTensors::deserialize(&bytes).expect("valid");
            let want: BTreeMap<String, (Vec<usize>, Vec<u8>)> = file
                .tensors()
                .into_iter()
                .map(|(name, t)| (name, (t.shape().to_vec(), t.data().to_vec())))
                .collect();
            let mut store = BurnpackStore::from_file(path.with_extension("bpk"));
            let found = store.get_all_snapshots().expect("valid");
            let found: BTreeMap<String, (Vec<usize>, Vec<u8>)> = found
                .values()
                .map(|s| {
                    let data = s.to_data().expect("readable");
                    let bytes = data.bytes.to_vec();
                    (s.full_path(), (data.shape.to_vec(), bytes))
                })
                .collect();
            assert!(found == want, "{part} as {dtype:?}");
        }
    }
}

#[test]
fn a_module_loads_it() {
    let originals =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../weights-converter/tests/goldens/originals");
    let trio = Trio {
        vae: Some(originals.join("vae.ckpt")),
        ..Trio::default()
    };
    let dir = tempfile::tempdir().expect("a folder");
    let output = dir.path().join("model");
    let options = Options {
        burnpack: true,
        dtype: Some(Dtype::F32),
        ..Options::default()
    };
    let only = [i2vgen_weights_converter::Component::Vae];
    let conversion =
        Conversion::trio(&trio, Some(&originals.join("configs")), Some(&only)).expect("opens");
    conversion
        .write(&output, &options, &mut |_| {})
        .expect("converts");
    let (folder, device) = (
        Folder::open(output.join("vae")).expect("opens"),
        Default::default(),
    );
    let want = AutoencoderKL::<Flex>::from_folder(&folder, None, burn::tensor::DType::F32, &device)
        .expect("loads");
    let mut module = AutoencoderKL::<Flex>::new(want.config.clone(), &device).expect("a config");
    let path = output.join("vae/diffusion_pytorch_model.bpk");
    let mut store = BurnpackStore::from_file(path);
    let result = module.load_from(&mut store).expect("loads");
    assert!(
        result.missing.is_empty() && result.unused.is_empty(),
        "{result}"
    );
    let z = Tensor::<Flex, 4>::ones([1, 4, 4, 4], &device);
    let decode = |vae: &AutoencoderKL<Flex>| vae.decode(z.clone()).expect("decodes").into_data();
    assert_eq!(decode(&module), decode(&want));
    assert!(module.num_params() > 0);
}
