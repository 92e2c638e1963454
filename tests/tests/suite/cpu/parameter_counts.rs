//! The published configurations have the published numbers of parameters. Nothing is allocated: parameters are lazy.

use burn::{backend::Flex, module::Module};
use i2vgen_checkpoint::parameters;
use i2vgen_clip_encoders::{
    CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection,
};
use i2vgen_unet3d::{I2VGenXLUNet, I2VGenXLUNetConfig};
use i2vgen_vae::{AutoencoderKL, AutoencoderKLConfig};

fn count<M: Module<Flex>>(module: &M) -> (usize, usize) {
    let parameters = parameters(module);
    let sum = parameters.iter().map(|(_, s)| s.iter().product::<usize>());
    (parameters.len(), sum.sum())
}

#[test]
fn unet() {
    let unet = I2VGenXLUNet::<Flex>::new(I2VGenXLUNetConfig::default(), &Default::default());
    assert_eq!(count(&unet.unwrap()), (1511, 1_420_469_224));
}

#[test]
fn vae() {
    let config = AutoencoderKLConfig {
        block_out_channels: vec![128, 256, 512, 512],
        down_block_types: vec!["DownEncoderBlock2D".into(); 4],
        up_block_types: vec!["UpDecoderBlock2D".into(); 4],
        layers_per_block: 2,
        ..Default::default()
    };
    let vae = AutoencoderKL::<Flex>::new(config, &Default::default());
    assert_eq!(count(&vae.unwrap()), (248, 83_653_863));
}

#[test]
fn vision() {
    let config = CLIPVisionConfig {
        hidden_size: 1280,
        intermediate_size: 5120,
        num_hidden_layers: 32,
        num_attention_heads: 16,
        hidden_act: "gelu".into(),
        projection_dim: 1024,
        patch_size: 14,
        ..Default::default()
    };
    let tower = CLIPVisionModelWithProjection::<Flex>::new(config, &Default::default());
    assert_eq!(count(&tower.unwrap()), (520, 632_076_800));
}

#[test]
fn text() {
    // 352,984,064 with 24 layers.
    let config = CLIPTextConfig {
        hidden_size: 1024,
        intermediate_size: 4096,
        num_hidden_layers: 24,
        num_attention_heads: 16,
        hidden_act: "gelu".into(),
        projection_dim: 1024,
        ..Default::default()
    };
    let tower = CLIPTextModel::<Flex>::new(config, &Default::default());
    assert_eq!(count(&tower.unwrap()), (388, 352_984_064));
}
