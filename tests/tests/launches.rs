//! Kernel launches of one step of the demo model's UNet with guidance: composed of burn's operations, and with our kernels.
//! A program of its own, because it sets CubeCL's configuration.
#![cfg(any(feature = "wgpu", feature = "cuda"))]

use burn::{
    backend::Autodiff,
    tensor::{Distribution, Tensor, backend::Backend},
};
use i2vgen_kernels::{launches, record_launches};
use i2vgen_tests::{TestBackend, repository};
use i2vgen_unet3d::{I2VGenXLUNet, I2VGenXLUNetConfig};

fn step<B: Backend>() -> usize {
    let device = Default::default();
    let config = repository("crates/demo-model/model/unet/config.json");
    let config = std::fs::read_to_string(config).unwrap();
    let config: I2VGenXLUNetConfig = serde_json::from_str(&config).unwrap();
    let width = config.cross_attention_dim;
    let unet = I2VGenXLUNet::<B>::new(config, &device).unwrap();
    let random = Distribution::Normal(0.0, 1.0);
    let prepared = unet
        .prepare(
            Tensor::random([2, 77, width], random, &device),
            Tensor::random([2, 1, width], random, &device),
            Tensor::random([1, 4, 4, 8, 8], random, &device),
            8.0,
            1.0,
        )
        .unwrap();
    let x = Tensor::<B, 5>::random([1, 4, 4, 8, 8], random, &device);
    let run = || {
        unet.forward(x.clone(), 500.0, &prepared).unwrap();
        B::sync(&device).unwrap();
    };
    run();
    launches();
    run();
    launches().len()
}

#[test]
#[ignore = "takes a minute without a GPU"]
fn kernels_save_launches() {
    assert!(record_launches());
    // Autodiff is another backend, so it gets no kernels.
    let composed = step::<Autodiff<TestBackend>>();
    let ours = step::<TestBackend>();
    println!("launches per step: {composed} composed, {ours} with our kernels");
    assert!(ours < composed);
}
