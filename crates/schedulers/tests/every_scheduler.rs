//! What holds for every scheduler: the trait's promises, limits, errors, and configs that go around.

use burn::tensor::{DType, Tensor};
use i2vgen_schedulers::{
    Scheduler, SchedulerError, SchedulerOptions, StepArgs, class_name, from_config,
    from_config_with, from_pretrained, save_pretrained, supported_classes,
};
use i2vgen_tests::TestBackend;
use serde_json::{Value, json};

type Image = Tensor<TestBackend, 4>;

fn names() -> impl Iterator<Item = &'static str> {
    supported_classes().iter().map(|(short, _)| *short)
}

fn model() -> Value {
    json!({
        "_class_name": "DDIMScheduler", "beta_schedule": "squaredcos_cap_v2", "rescale_betas_zero_snr": true,
        "prediction_type": "v_prediction", "steps_offset": 1, "timestep_spacing": "leading", "clip_sample": false,
        "set_alpha_to_one": true,
    })
}

fn scheduler(config: &Value, name: &str) -> Box<dyn Scheduler<TestBackend>> {
    from_config(config, name).unwrap()
}

fn ones() -> Image {
    Tensor::ones([2, 1, 2, 2], &Default::default())
}

/// A run with a model that always says the same, and how often noise was drawn.
fn run(scheduler: &mut dyn Scheduler<TestBackend>) -> (Image, usize) {
    let mut draws = 0;
    let mut source = |like: &Image| {
        draws += 1;
        like.ones_like() * 0.5
    };
    let mut x = ones() * scheduler.init_noise_sigma();
    for index in 0..scheduler.timesteps().len() {
        let input = scheduler.scale_model_input(x.clone(), index).unwrap();
        let args = StepArgs::with_noise(0.0, &mut source);
        x = scheduler.step(input * 0.3, index, x, args).unwrap();
    }
    (x, draws)
}

#[test]
fn names_are_as_documented() {
    let expected = "ddim ddpm pndm lms euler euler-ancestral heun kdpm2 dpmsolver++ sde-dpmsolver++ unipc deis lcm";
    assert_eq!(names().collect::<Vec<_>>().join(" "), expected);
    for (short, class) in supported_classes() {
        assert_eq!(class_name(short).unwrap(), *class);
        assert_eq!(class_name(class).unwrap(), *class);
        assert_eq!(scheduler(&json!({}), short).class_name(), *class);
    }
}

/// Any number of steps gives finite samples or an error that says what is possible.
#[test]
fn extreme_numbers_of_steps() {
    let spacings = ["leading", "linspace", "trailing"];
    let predictions = ["v_prediction", "epsilon"];
    for name in names() {
        for (spacing, prediction, karras) in spacings.into_iter().flat_map(|spacing| {
            predictions
                .into_iter()
                .flat_map(move |p| [(spacing, p, false), (spacing, p, true)])
        }) {
            for offset in [0, 1] {
                let mut config = model();
                config["timestep_spacing"] = json!(spacing);
                config["prediction_type"] = json!(prediction);
                config["use_karras_sigmas"] = json!(karras);
                config["steps_offset"] = json!(offset);
                let mut scheduler = scheduler(&config, name);
                for steps in [0, 1, 2, 3, 4, 999, 1000, 1001] {
                    let case = format!("{name}, {steps} steps, {config}");
                    match scheduler.set_timesteps(steps) {
                        Ok(()) => {
                            assert!((1..=1000).contains(&steps), "{case}");
                            let last = scheduler.timesteps().iter().fold(0.0, |m, t| t.max(m));
                            assert!(last <= 999.0, "{case}");
                            // Long runs take long, and without signal to divide by samples are huge.
                            if prediction == "epsilon" && (last == 999.0 || steps > 4) {
                                continue;
                            }
                            let sum = run(&mut *scheduler).0.abs().sum().into_scalar();
                            assert!(sum.is_finite(), "{case}: {sum}");
                        }
                        Err(
                            SchedulerError::StepCount { .. }
                            | SchedulerError::Timestep { .. }
                            | SchedulerError::NoSignal { .. },
                        ) => assert!(
                            ![2usize, 3, 4].contains(&steps)
                                || name == "pndm" && steps < 4
                                || prediction == "epsilon",
                            "{case}"
                        ),
                        Err(error) => panic!("{case}: {error}"),
                    }
                }
            }
        }
    }
}

/// Nothing of the signal is left at the start, and every class that can run there stays finite.
#[test]
fn from_pure_noise() {
    let mut config = model();
    config["timestep_spacing"] = json!("trailing");
    for name in names() {
        let mut scheduler = scheduler(&config, name);
        scheduler.set_timesteps(10).unwrap();
        assert_eq!(scheduler.timesteps()[0], 999.0, "{name}");
        let sum = run(&mut *scheduler).0.abs().sum().into_scalar();
        assert!(sum.is_finite() && sum < 1e3, "{name}: {sum}");
    }
}

#[test]
fn noise_is_drawn_only_where_some_is_added() {
    for name in names() {
        let mut scheduler = scheduler(&model(), name);
        scheduler.set_timesteps(5).unwrap();
        let expected = match name {
            "ddpm" | "euler-ancestral" | "sde-dpmsolver++" => 5,
            "lcm" => 4,
            _ => 0,
        };
        assert_eq!(run(&mut *scheduler).1, expected, "{name}");

        scheduler.set_timesteps(5).unwrap();
        let result = scheduler.step(ones(), 0, ones(), StepArgs::default());
        match result {
            Ok(_) => assert_eq!(expected, 0, "{name}"),
            Err(SchedulerError::NoNoiseSource) => assert!(expected > 0, "{name}"),
            Err(error) => panic!("{name}: {error}"),
        }
    }
    // DDPM draws none in a step from timestep 0.
    let mut config = model();
    config["steps_offset"] = json!(0);
    let mut ddpm = scheduler(&config, "ddpm");
    ddpm.set_timesteps(5).unwrap();
    assert_eq!(run(&mut *ddpm).1, 4);
}

#[test]
fn steps_with_a_history_come_in_order() {
    for name in names() {
        let stateful = [
            "pndm",
            "lms",
            "heun",
            "kdpm2",
            "dpmsolver++",
            "sde-dpmsolver++",
            "unipc",
            "deis",
        ];
        let stateful = stateful.contains(&name);
        let mut scheduler = scheduler(&model(), name);
        let mut noise = |like: &Image| like.ones_like();
        let mut step = |scheduler: &mut Box<dyn Scheduler<TestBackend>>, index| {
            let args = StepArgs::with_noise(0.0, &mut noise);
            scheduler.step(ones(), index, ones(), args).map(drop)
        };
        let error = step(&mut scheduler, 0).unwrap_err();
        assert!(
            matches!(error, SchedulerError::StepIndex { count: 0, .. }),
            "{name}: {error}"
        );
        scheduler.set_timesteps(8).unwrap();
        let count = scheduler.timesteps().len();
        let error = step(&mut scheduler, count).unwrap_err();
        assert!(
            matches!(error, SchedulerError::StepIndex { .. }),
            "{name}: {error}"
        );
        assert!(scheduler.scale_model_input(ones(), 0).is_ok());

        for (index, next) in [(2, 0), (0, 0), (0, 1), (1, 1), (1, 2)] {
            let result = step(&mut scheduler, index);
            match result {
                Ok(()) => assert!(!stateful || index == next, "{name}: {index}, {next}"),
                Err(SchedulerError::StepOrder { next: found, .. }) => {
                    assert!(
                        stateful && index != next && found == next,
                        "{name}: {index}, {next}"
                    );
                }
                Err(error) => panic!("{name}: {error}"),
            }
        }
        // A run that begins later, as for a sample that is noisy already.
        scheduler.set_timesteps(8).unwrap();
        match scheduler.set_begin_index(4) {
            Ok(()) => {
                step(&mut scheduler, 4).unwrap();
                step(&mut scheduler, 5).unwrap();
            }
            Err(SchedulerError::BeginIndex { .. }) => assert_eq!(name, "pndm"),
            Err(error) => panic!("{name}: {error}"),
        }
        let odd = scheduler.set_begin_index(3);
        let whole_only = ["heun", "kdpm2", "pndm"].contains(&name);
        assert_eq!(odd.is_err(), whole_only, "{name}");
        assert!(scheduler.set_begin_index(count).is_err());
    }
}

/// A run begun anew forgets the one before.
#[test]
fn runs_do_not_depend_on_each_other() {
    for name in names() {
        let mut scheduler = scheduler(&model(), name);
        scheduler.set_timesteps(7).unwrap();
        let first = run(&mut *scheduler).0;
        scheduler.set_timesteps(5).unwrap();
        let mut noise = |like: &Image| like.ones_like();
        let args = StepArgs::with_noise(0.0, &mut noise);
        scheduler.step(ones(), 0, ones(), args).unwrap();
        scheduler.set_timesteps(7).unwrap();
        let mut copy = scheduler.clone();
        assert_eq!(run(&mut *scheduler).0.to_data(), first.to_data(), "{name}");
        assert_eq!(run(&mut *copy).0.to_data(), first.to_data(), "{name}");
    }
}

#[test]
fn half_precision_is_computed_in_f32() {
    for name in names() {
        for dtype in [DType::F16, DType::BF16] {
            let mut half = scheduler(&model(), name);
            half.set_timesteps(4).unwrap();
            let mut wide = half.clone();
            let mut source = |like: &Image| like.ones_like() * 0.25;
            let mut x = (ones() * 0.3 * half.init_noise_sigma()).cast(dtype);
            for index in 0..half.timesteps().len() {
                let output = x.clone() * 0.5;
                let args = StepArgs::with_noise(0.0, &mut source);
                let expected = wide
                    .step(
                        output.clone().cast(DType::F32),
                        index,
                        x.clone().cast(DType::F32),
                        args,
                    )
                    .unwrap();
                let args = StepArgs::with_noise(0.0, &mut source);
                x = half.step(output, index, x, args).unwrap();
                assert_eq!(x.dtype(), dtype, "{name}");
                assert_eq!(
                    x.to_data(),
                    expected.cast(dtype).to_data(),
                    "{name}, {index}"
                );
                assert_eq!(
                    half.scale_model_input(x.clone(), index).unwrap().dtype(),
                    dtype
                );
            }
        }
    }
}

/// A batch is its samples one by one.
#[test]
fn samples_do_not_mix() {
    for name in names() {
        let mut both = scheduler(&model(), name);
        both.set_timesteps(4).unwrap();
        let mut single = both.clone();
        let mut source = |like: &Image| like.ones_like() * 0.25;
        let row = Tensor::<TestBackend, 4>::from_floats(
            [[[[0.1, -0.7], [1.3, 0.4]]]],
            &Default::default(),
        );
        let mut x = Tensor::cat(vec![ones().narrow(0, 0, 1), row.clone()], 0);
        let mut y = row;
        for index in 0..both.timesteps().len() {
            let args = StepArgs::with_noise(0.0, &mut source);
            x = both.step(x.clone() * 0.5, index, x, args).unwrap();
            let args = StepArgs::with_noise(0.0, &mut source);
            y = single.step(y.clone() * 0.5, index, y, args).unwrap();
        }
        assert_eq!(x.narrow(0, 1, 1).to_data(), y.to_data(), "{name}");
    }
}

#[test]
fn noise_is_added_as_at_the_timestep() {
    for name in names() {
        let mut scheduler = scheduler(&model(), name);
        scheduler.set_timesteps(5).unwrap();
        let noisy = scheduler.add_noise(ones(), ones(), &[1.0, 981.0]).unwrap();
        let values: Vec<f32> = noisy.to_data().to_vec().unwrap();
        // ᾱ of 0.99991 and 7.84e-4; in sigma space the clean sample keeps its weight.
        let in_sigma_space = ["lms", "euler", "euler-ancestral", "heun", "kdpm2"].contains(&name);
        let expected = match in_sigma_space {
            true => [1.0 + 0.00935, 1.0 + 35.7],
            false => [0.99996 + 0.00935, 0.028 + 0.99961],
        };
        for (value, expected) in [values[0], values[4]].into_iter().zip(expected) {
            assert!(
                (value - expected).abs() < 3e-3 * expected,
                "{name}: {value}, {expected}"
            );
        }
        for outside in [1000.0, -1.0, f64::NAN] {
            assert!(
                scheduler.add_noise(ones(), ones(), &[outside]).is_err(),
                "{name}"
            );
        }
    }
}

#[test]
fn configs_go_around() {
    // Kept, for `tests/goldens/schedulers/samplers/open_configs.py`.
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("scheduler_configs");
    for (name, class) in supported_classes() {
        let scheduler = scheduler(&model(), name);
        let path = folder.join(name);
        save_pretrained(&*scheduler, &path).unwrap();
        let loaded = from_pretrained::<TestBackend>(&path).unwrap();
        let config = loaded.to_config();
        assert_eq!(config, scheduler.to_config());
        assert_eq!(config["_class_name"], json!(class));
        assert_eq!(config["prediction_type"], json!("v_prediction"));
        // And back: what the classes share survives.
        let back = from_config::<TestBackend>(&config, "ddim")
            .unwrap()
            .to_config();
        for key in [
            "beta_schedule",
            "steps_offset",
            "timestep_spacing",
            "rescale_betas_zero_snr",
        ] {
            assert_eq!(back[key], model()[key], "{name}, {key}");
        }
    }
    let sde = from_pretrained::<TestBackend>(folder.join("sde-dpmsolver++")).unwrap();
    assert_eq!(sde.to_config()["algorithm_type"], json!("sde-dpmsolver++"));
    let plain = from_config::<TestBackend>(&sde.to_config(), "dpmsolver++").unwrap();
    assert_eq!(plain.to_config()["algorithm_type"], json!("dpmsolver++"));
}

/// diffusers writes -Infinity into a JSON file, and notes which keys it filled in itself.
#[test]
fn a_file_as_diffusers_writes_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = r#"{
  "_class_name": "DPMSolverMultistepScheduler",
  "_use_default_values": ["timestep_spacing", "beta_end"],
  "beta_end": 0.5,
  "lambda_min_clipped": -Infinity,
  "solver_type": "bh2",
  "timestep_spacing": "leading",
  "variance_type": null
}"#;
    std::fs::write(folder.path().join("scheduler_config.json"), file).unwrap();
    let config = from_pretrained::<TestBackend>(folder.path())
        .unwrap()
        .to_config();
    assert_eq!(config["timestep_spacing"], json!("linspace"));
    assert_eq!(config["beta_end"], json!(0.02));
    assert_eq!(config["solver_type"], json!("midpoint"));
}

#[test]
fn options() {
    let with = |name: &str, options: SchedulerOptions| {
        from_config_with::<TestBackend>(&model(), name, &options)
            .map(|scheduler| scheduler.to_config())
    };
    let karras = SchedulerOptions {
        karras_sigmas: Some(true),
        ..Default::default()
    };
    let third = SchedulerOptions {
        solver_order: Some(3),
        ..Default::default()
    };
    for name in names() {
        let knows = [
            "lms",
            "euler",
            "heun",
            "kdpm2",
            "dpmsolver++",
            "sde-dpmsolver++",
            "unipc",
            "deis",
        ];
        match with(name, karras) {
            Ok(config) => assert!(
                knows.contains(&name) && config["use_karras_sigmas"] == true,
                "{name}"
            ),
            Err(error) => {
                let message = error.to_string();
                assert!(!knows.contains(&name), "{name}: {message}");
                assert!(
                    message.contains("karras_sigmas") && message.contains("euler, heun"),
                    "{message}"
                );
            }
        }
        let knows = ["dpmsolver++", "sde-dpmsolver++", "unipc", "deis"];
        match with(name, third) {
            Ok(config) => assert!(
                knows.contains(&name) && config["solver_order"] == 3,
                "{name}"
            ),
            Err(error) => {
                let message = error.to_string();
                assert!(!knows.contains(&name), "{name}: {message}");
                assert!(message.contains("unipc, deis"), "{message}");
            }
        }
    }
    for order in [0, 4] {
        let options = SchedulerOptions {
            solver_order: Some(order),
            ..Default::default()
        };
        let message = with("unipc", options).unwrap_err().to_string();
        assert!(
            message.contains("solver_order") && message.contains("1, 2 or 3"),
            "{message}"
        );
    }
}

#[test]
fn refused_configs_say_why() {
    for (name, config, parts) in [
        (
            "pndm",
            json!({ "prediction_type": "sample" }),
            ["prediction_type", "v_prediction"],
        ),
        (
            "euler-ancestral",
            json!({ "prediction_type": "sample" }),
            ["prediction_type", "epsilon"],
        ),
        (
            "kdpm2",
            json!({ "prediction_type": "sample" }),
            ["prediction_type", "epsilon"],
        ),
        (
            "euler",
            json!({ "timestep_type": "continuous" }),
            ["timestep_type", "discrete"],
        ),
        (
            "euler",
            json!({ "use_beta_sigmas": true }),
            ["use_beta_sigmas", "false"],
        ),
        (
            "deis",
            json!({ "use_flow_sigmas": true }),
            ["use_flow_sigmas", "false"],
        ),
        (
            "unipc",
            json!({ "predict_x0": false }),
            ["predict_x0", "true"],
        ),
        (
            "unipc",
            json!({ "solver_type": "bh3" }),
            ["solver_type", "bh1"],
        ),
        (
            "ddpm",
            json!({ "variance_type": "learned" }),
            ["variance_type", "fixed_small"],
        ),
        (
            "lcm",
            json!({ "original_inference_steps": 0 }),
            ["original_inference_steps", "from 1"],
        ),
        (
            "lcm",
            json!({ "timestep_scaling": 0.0 }),
            ["timestep_scaling", "above 0"],
        ),
        (
            "DPMSolverMultistepScheduler",
            json!({ "algorithm_type": "dpmsolver" }),
            ["algorithm_type", "dpmsolver++"],
        ),
    ] {
        let message = from_config::<TestBackend>(&config, name)
            .unwrap_err()
            .to_string();
        for part in parts {
            assert!(message.contains(part), "{name}: {message}");
        }
    }
    // Betas of 0 leave steps without any noise to take away.
    let config = json!({ "trained_betas": vec![0.0; 1000], "solver_order": 2 });
    for name in [
        "lms",
        "euler",
        "heun",
        "kdpm2",
        "dpmsolver++",
        "unipc",
        "deis",
    ] {
        let error = scheduler(&config, name).set_timesteps(10).unwrap_err();
        assert!(
            matches!(error, SchedulerError::EqualNoise { .. }),
            "{name}: {error}"
        );
    }
}

#[test]
fn fewest_and_most_steps() {
    let bounds =
        |name: &str, config: Value, steps| match scheduler(&config, name).set_timesteps(steps) {
            Err(SchedulerError::StepCount { min, max, .. }) => Some((min, max)),
            Err(error) => panic!("{name}: {error}"),
            Ok(()) => None,
        };
    assert_eq!(bounds("pndm", json!({}), 3), Some((4, 1000)));
    assert_eq!(bounds("pndm", json!({ "skip_prk_steps": true }), 1), None);
    assert_eq!(bounds("lcm", json!({}), 51), Some((1, 50)));
    assert_eq!(bounds("unipc", json!({}), 1000), Some((1, 999)));
    assert_eq!(
        bounds("unipc", json!({ "timestep_spacing": "trailing" }), 1000),
        None
    );
    assert_eq!(bounds("euler", json!({}), 1000), None);
}
