//! The tensors computed from the published configs are the published key lists.

use std::collections::BTreeSet;

use i2vgen_weights_converter::Component;

fn check(component: Component, list: &str) {
    let config = serde_json::from_str(component.published_config()).unwrap();
    let line = |(key, shape): (String, Vec<usize>)| {
        let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
        format!("{key} {}", shape.join("x"))
    };
    let found: Vec<String> = component
        .layout(&config)
        .unwrap()
        .into_iter()
        .map(line)
        .collect();
    let count = found.len();
    let found: BTreeSet<String> = found.into_iter().collect();
    assert_eq!(found.len(), count, "a key twice");
    let listed: BTreeSet<String> = list.lines().map(str::to_owned).collect();
    let differ: Vec<_> = found.symmetric_difference(&listed).take(10).collect();
    assert!(differ.is_empty(), "{component:?}: {differ:?}");
}

#[test]
fn published_configs_give_the_published_keys() {
    check(Component::Unet, include_str!("keys/unet_keys.txt"));
    check(Component::Unet3d, include_str!("keys/unet3d_keys.txt"));
    check(Component::Vae, include_str!("keys/vae_keys.txt"));
    check(
        Component::TextEncoder,
        include_str!("keys/clip_text_keys.txt"),
    );
    check(
        Component::ImageEncoder,
        include_str!("keys/clip_vision_keys.txt"),
    );
}

#[test]
fn odd_configs_are_errors() {
    for config in [
        "{}",
        "[]",
        "3",
        r#"{"block_out_channels": [-1]}"#,
        r#"{"block_out_channels": []}"#,
    ] {
        let config = serde_json::from_str(config).unwrap();
        assert!(Component::Vae.layout(&config).is_err());
        assert!(Component::Unet.layout(&config).is_err());
    }
    let config = serde_json::from_str(r#"{"patch_size": 0}"#).unwrap();
    assert!(Component::ImageEncoder.layout(&config).is_err());
    // Lists of names that would fill the memory.
    let config =
        serde_json::from_str(r#"{"block_out_channels": [4], "layers_per_block": 1000000}"#);
    assert!(Component::Vae.layout(&config.unwrap()).is_err());
    let config = serde_json::from_str(r#"{"num_hidden_layers": 1000000}"#).unwrap();
    assert!(Component::TextEncoder.layout(&config).is_err());
}
