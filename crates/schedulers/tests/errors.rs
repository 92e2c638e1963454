//! What is refused, and how it is put; saving and loading.

use burn::{
    backend::Flex,
    tensor::{DType, Tensor},
};
use i2vgen_schedulers::{
    Scheduler, SchedulerError, StepArgs, class_name, from_config, from_pretrained, save_pretrained,
};
use serde_json::{Value, json};

fn ddim(config: Value) -> Result<Box<dyn Scheduler<Flex>>, SchedulerError> {
    from_config(&config, "DDIMScheduler")
}

/// A scheduler that must not come to be.
fn refusal(config: Value) -> String {
    ddim(config).unwrap_err().to_string()
}

fn image(shape: [usize; 4]) -> Tensor<Flex, 4> {
    Tensor::ones(shape, &Default::default())
}

#[test]
fn a_bad_value_names_its_key_and_what_is_allowed() {
    let cases = [
        (
            json!({ "beta_schedule": "sigmoid" }),
            ["beta_schedule", "squaredcos_cap_v2"],
        ),
        (
            json!({ "prediction_type": "v" }),
            ["prediction_type", "v_prediction"],
        ),
        (
            json!({ "timestep_spacing": "karras" }),
            ["timestep_spacing", "trailing"],
        ),
        (
            json!({ "num_train_timesteps": 0 }),
            ["num_train_timesteps", "at least 1"],
        ),
        (
            json!({ "num_train_timesteps": "many" }),
            ["num_train_timesteps", "invalid type"],
        ),
        (json!({ "beta_end": 1.5 }), ["beta_end", "between 0 and 1"]),
        (
            json!({ "trained_betas": [0.1] }),
            ["trained_betas", "at least num_train_timesteps"],
        ),
        (
            json!({ "clip_sample_range": -1 }),
            ["clip_sample_range", "above 0"],
        ),
        (
            json!({ "dynamic_thresholding_ratio": 2 }),
            ["dynamic_thresholding_ratio", "between 0 and 1"],
        ),
        (json!([1]), ["(root)", "JSON object"]),
    ];
    for (config, parts) in cases {
        let message = refusal(config);
        for part in parts {
            assert!(message.contains(part), "{message}");
        }
    }
}

#[test]
fn unknown_keys_are_ignored() {
    assert!(ddim(json!({ "_diffusers_version": "0.33.1", "use_karras_sigmas": true })).is_ok());
}

#[test]
fn an_unknown_class_lists_the_known_ones() {
    let message = from_config::<Flex>(&json!({}), "FooScheduler")
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("FooScheduler") && message.contains("DDIMScheduler (ddim)"),
        "{message}"
    );
    assert_eq!(class_name("ddim").unwrap(), "DDIMScheduler");
}

#[test]
fn impossible_runs() {
    let mut scheduler = ddim(json!({ "steps_offset": 1 })).unwrap();
    for steps in [0, 1001] {
        let error = scheduler.set_timesteps(steps).unwrap_err();
        assert!(
            matches!(error, SchedulerError::StepCount { max: 1000, .. }),
            "{error}"
        );
    }
    let error = scheduler.set_timesteps(1000).unwrap_err();
    assert!(
        matches!(error, SchedulerError::Timestep { last: 999, .. }),
        "{error}"
    );

    let config = json!({ "rescale_betas_zero_snr": true, "timestep_spacing": "trailing", "clip_sample": false });
    let error = ddim(config).unwrap().set_timesteps(10).unwrap_err();
    assert!(
        matches!(error, SchedulerError::NoSignal { timestep: 999 }),
        "{error}"
    );
}

#[test]
fn impossible_steps() {
    let mut scheduler = ddim(json!({})).unwrap();
    let x = image([1, 2, 2, 4]);
    let error = scheduler
        .step(x.clone(), 0, x.clone(), StepArgs::default())
        .unwrap_err();
    assert!(
        matches!(error, SchedulerError::StepIndex { count: 0, .. }),
        "{error}"
    );
    scheduler.set_timesteps(2).unwrap();
    let error = scheduler
        .step(x.clone(), 2, x.clone(), StepArgs::default())
        .unwrap_err();
    assert!(
        matches!(error, SchedulerError::StepIndex { count: 2, .. }),
        "{error}"
    );
    let error = scheduler
        .step(image([1, 2, 4, 2]), 0, x.clone(), StepArgs::default())
        .unwrap_err();
    assert!(matches!(error, SchedulerError::Shape { .. }), "{error}");
    for eta in [-0.5, f64::NAN] {
        let args = StepArgs {
            eta,
            ..Default::default()
        };
        let error = scheduler.step(x.clone(), 0, x.clone(), args).unwrap_err();
        assert!(matches!(error, SchedulerError::Eta(_)), "{error}");
    }
    let args = StepArgs {
        eta: 1.0,
        ..Default::default()
    };
    let error = scheduler.step(x.clone(), 0, x.clone(), args).unwrap_err();
    assert!(matches!(error, SchedulerError::NoNoiseSource), "{error}");
    let mut short = |_: &Tensor<Flex, 4>| image([1, 1, 1, 1]);
    let error = scheduler
        .step(
            x.clone(),
            0,
            x.clone(),
            StepArgs::with_noise(1.0, &mut short),
        )
        .unwrap_err();
    assert!(matches!(error, SchedulerError::Shape { .. }), "{error}");
    for (timesteps, what) in [
        (&[1.0, 2.0][..], "2 timesteps"),
        (&[1000.0], "1000"),
        (&[0.5], "0.5"),
    ] {
        let error = scheduler
            .add_noise(x.clone(), x.clone(), timesteps)
            .unwrap_err()
            .to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn noise_alone_is_denoised_without_nan() {
    // Zero SNR and eta 1: nothing but fresh noise is left, and rounding must not make its root negative.
    let config = json!({
        "beta_schedule": "squaredcos_cap_v2", "rescale_betas_zero_snr": true, "timestep_spacing": "trailing",
        "prediction_type": "v_prediction",
    });
    let mut scheduler = ddim(config).unwrap();
    for steps in 1..60 {
        scheduler.set_timesteps(steps).unwrap();
        let x = image([1, 1, 1, 2]);
        let mut noise = |like: &Tensor<Flex, 4>| like.ones_like();
        let args = StepArgs::with_noise(1.0, &mut noise);
        let sum = scheduler
            .step(x.clone(), 0, x, args)
            .unwrap()
            .sum()
            .into_scalar();
        assert!(sum.is_finite(), "{steps} steps");
    }
}

#[test]
fn half_precision_is_computed_in_f32() {
    let mut scheduler = ddim(json!({})).unwrap();
    scheduler.set_timesteps(20).unwrap();
    let x = image([1, 2, 2, 4]) * 0.3;
    for dtype in [DType::F16, DType::BF16] {
        let half = x.clone().cast(dtype);
        let out = scheduler
            .step(half.clone(), 3, half.clone(), StepArgs::default())
            .unwrap();
        assert_eq!(out.dtype(), dtype);
        let wide = half.cast(DType::F32);
        let expected = scheduler
            .step(wide.clone(), 3, wide, StepArgs::default())
            .unwrap();
        assert_eq!(out.to_data(), expected.cast(dtype).to_data());
    }
}

#[test]
fn saved_and_loaded_it_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let config =
        json!({ "beta_schedule": "squaredcos_cap_v2", "steps_offset": 1, "trained_betas": null });
    let mut scheduler = ddim(config).unwrap();
    scheduler.set_alpha_to_one(false);
    save_pretrained(&*scheduler, folder.path().join("scheduler")).unwrap();
    let loaded = from_pretrained::<Flex>(folder.path().join("scheduler")).unwrap();
    assert_eq!(loaded.to_config(), scheduler.to_config());
    assert_eq!(loaded.to_config()["set_alpha_to_one"], json!(false));
    assert_eq!(loaded.class_name(), "DDIMScheduler");

    let message = from_pretrained::<Flex>(folder.path())
        .unwrap_err()
        .to_string();
    assert!(message.contains("scheduler_config.json"), "{message}");
    std::fs::write(folder.path().join("scheduler_config.json"), "{}").unwrap();
    let message = from_pretrained::<Flex>(folder.path())
        .unwrap_err()
        .to_string();
    assert!(message.contains("_class_name"), "{message}");
}
