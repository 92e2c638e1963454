//! Whole runs of every scheduler, against diffusers (`tests/goldens/schedulers/samplers/generate.py`).

use std::{collections::BTreeMap, fs};

use burn::tensor::{Tensor, TensorData};
use i2vgen_schedulers::{
    DEISMultistepScheduler, DEISMultistepSchedulerConfig, DPMSolverMultistepScheduler,
    DPMSolverMultistepSchedulerConfig, EulerAncestralDiscreteScheduler,
    EulerAncestralDiscreteSchedulerConfig, EulerDiscreteScheduler, EulerDiscreteSchedulerConfig,
    HeunDiscreteScheduler, HeunDiscreteSchedulerConfig, KDPM2DiscreteScheduler,
    KDPM2DiscreteSchedulerConfig, LMSDiscreteScheduler, LMSDiscreteSchedulerConfig, Scheduler,
    SchedulerOptions, StepArgs, UniPCMultistepScheduler, UniPCMultistepSchedulerConfig,
    from_config, from_config_with,
};
use i2vgen_tests::{TestBackend, repository};
use safetensors::SafeTensors;
use serde_json::{Value, json};

type Image = Tensor<TestBackend, 4>;

const SHAPE: [usize; 4] = [2, 1, 2, 2];
const SIZE: usize = 8;

struct Goldens {
    bytes: Vec<u8>,
    cases: Value,
}

impl Goldens {
    fn read() -> Self {
        let folder = repository("tests/goldens/schedulers/samplers");
        Self {
            bytes: fs::read(folder.join("samplers.safetensors")).unwrap(),
            cases: serde_json::from_slice(&fs::read(folder.join("cases.json")).unwrap()).unwrap(),
        }
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(name).unwrap();
        let words = view.data().chunks_exact(4);
        words
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect()
    }
}

fn image(values: &[f32]) -> Image {
    let data = TensorData::new(values.to_vec(), SHAPE);
    Tensor::from_data(data, &Default::default())
}

fn values(image: &Image) -> Vec<f32> {
    image.to_data().to_vec().unwrap()
}

/// As in `generate.py`.
fn toy(x: Image, t: f64) -> Image {
    (x.clone() * 1.3 + 2.0 * (t / 1000.0)).sin() * 0.7 + x * 0.2 - 0.1
}

/// The largest difference relative to the largest expected value. NaN is larger than all.
fn difference(actual: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(actual.len(), expected.len());
    let scale = expected.iter().fold(1e-9f32, |m, v| m.max(v.abs()));
    let differences = actual
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs() / scale);
    differences.fold(0.0, |m, d| if d <= m { m } else { d })
}

/// The sigmas of a run without repetitions; empty for schedulers without.
fn sigmas(name: &str, config: &Value, steps: usize) -> Vec<f64> {
    macro_rules! of {
        ($scheduler:ident, $config:ident) => {{
            let config = $config::from_json(config).unwrap();
            let mut scheduler = $scheduler::<TestBackend>::new(config).unwrap();
            scheduler.set_timesteps(steps).unwrap();
            scheduler.sigmas().to_vec()
        }};
    }
    let mut sigmas = match name {
        "lms" => of!(LMSDiscreteScheduler, LMSDiscreteSchedulerConfig),
        "euler" => of!(EulerDiscreteScheduler, EulerDiscreteSchedulerConfig),
        "euler-ancestral" => of!(
            EulerAncestralDiscreteScheduler,
            EulerAncestralDiscreteSchedulerConfig
        ),
        "heun" => of!(HeunDiscreteScheduler, HeunDiscreteSchedulerConfig),
        "kdpm2" => of!(KDPM2DiscreteScheduler, KDPM2DiscreteSchedulerConfig),
        "dpmsolver++" | "sde-dpmsolver++" => of!(
            DPMSolverMultistepScheduler,
            DPMSolverMultistepSchedulerConfig
        ),
        "unipc" => of!(UniPCMultistepScheduler, UniPCMultistepSchedulerConfig),
        "deis" => of!(DEISMultistepScheduler, DEISMultistepSchedulerConfig),
        _ => Vec::new(),
    };
    sigmas.dedup();
    sigmas
}

/// How much of the sample's scale a run may differ by. A fused backend rounds products and sums together, torch does not: after
/// the first step of a zero-SNR run, from sigma 4096 to 6, that alone is 1e-4 of a sample (in NumPy, too), and later steps add
/// to it.
const TOLERANCE: f32 = 1e-5 * i2vgen_tests::SLACK * if i2vgen_tests::FUSED { 100.0 } else { 1.0 };

/// A config of the goldens for our schedulers, with torch's own zero-SNR betas, so that only the steps are compared (see
/// `tables.rs` for why).
fn with_torch_betas(config: &Value, betas: &[f32]) -> Value {
    let mut config = config.clone();
    if config["rescale_betas_zero_snr"] == json!(true) {
        config["trained_betas"] = json!(betas);
        config["rescale_betas_zero_snr"] = json!(false);
    }
    config
}

#[test]
fn whole_runs() {
    let goldens = Goldens::read();
    let betas = goldens.f32("rescaled_betas");
    let (start, noise) = (goldens.f32("start"), goldens.f32("noise"));
    let (samples, timesteps, all_sigmas) = (
        goldens.f32("samples"),
        goldens.f32("timesteps"),
        goldens.f32("sigmas"),
    );
    let (mut at, mut at_time, mut at_sigma) = (0, 0, 0);
    // Per scheduler: steps, and the worst of samples, timesteps and sigmas.
    let mut worst: BTreeMap<String, (usize, [f64; 3])> = BTreeMap::new();
    let mut failures = Vec::new();
    for run in goldens.cases["runs"].as_array().unwrap() {
        let name = run["name"].as_str().unwrap();
        let golden_config = &goldens.cases["configs"][run["config"].as_u64().unwrap() as usize];
        let config = with_torch_betas(golden_config, &betas);
        let steps = run["steps"].as_u64().unwrap() as usize;
        let case = format!("{name}, {steps} steps, {golden_config}");
        let karras = config["use_karras_sigmas"] == json!(true);
        let take = |all: &[f32], at: &mut usize, key: &str| -> Vec<f32> {
            let from = *at;
            *at += run[key].as_u64().unwrap() as usize;
            all[from..*at].to_vec()
        };
        let expected = take(&samples, &mut at, "samples");
        let expected_timesteps = take(&timesteps, &mut at_time, "timesteps");
        let mut expected_sigmas = take(&all_sigmas, &mut at_sigma, "sigmas");
        expected_sigmas.dedup();

        let mut scheduler = from_config::<TestBackend>(&config, name).unwrap();
        scheduler.set_timesteps(steps).unwrap();
        let init = run["init"].as_f64().unwrap();
        let init_error = (scheduler.init_noise_sigma() - init).abs() / init;
        if init_error > 2e-7 {
            failures.push(format!("{case}: init_noise_sigma {init_error:e}"));
        }
        let times = scheduler.timesteps().to_vec();
        assert_eq!(times.len(), expected_timesteps.len(), "{case}");
        let time_error = times
            .iter()
            .zip(&expected_timesteps)
            .map(|(a, b)| (a - f64::from(*b)).abs())
            .fold(0.0, f64::max);
        // Timesteps between whole ones come from logarithms, which numpy rounds otherwise.
        let between = name == "kdpm2" || karras;
        if time_error > if between { 2e-3 } else { 0.0 } {
            failures.push(format!("{case}: timesteps {time_error:e}"));
        }
        let ours = sigmas(name, &config, steps);
        assert_eq!(ours.len(), expected_sigmas.len(), "{case}");
        let sigma_error = ours
            .iter()
            .zip(&expected_sigmas)
            .map(|(a, b)| (a - f64::from(*b)).abs() / f64::from(*b).max(1e-9))
            .fold(0.0, f64::max);
        if sigma_error > 5e-7 {
            failures.push(format!("{case}: sigmas {sigma_error:e}"));
        }

        let mut draws = 0;
        let mut x = image(&start) * scheduler.init_noise_sigma();
        let (mut run_error, mut count) = (0.0f32, 0);
        let begin = run["begin"].as_u64().unwrap_or_default() as usize;
        if begin > 0 {
            scheduler.set_begin_index(begin).unwrap();
        }
        for (index, t) in times.into_iter().enumerate().skip(begin) {
            let mut source = |like: &Image| {
                assert_eq!(like.dims(), SHAPE);
                draws += 1;
                image(&noise[(draws - 1) * SIZE..draws * SIZE])
            };
            let input = scheduler.scale_model_input(x.clone(), index).unwrap();
            let args = StepArgs::with_noise(0.0, &mut source);
            x = scheduler.step(toy(input, t), index, x, args).unwrap();
            let error = difference(&values(&x), &expected[count * SIZE..(count + 1) * SIZE]);
            if error.is_nan() || error > run_error {
                run_error = error;
            }
            count += 1;
        }
        assert_eq!(draws as u64, run["draws"].as_u64().unwrap(), "{case}");
        if run_error.is_nan() || run_error > TOLERANCE {
            failures.push(format!("{case}: {run_error:e}"));
        }
        let (total, errors) = worst.entry(name.to_owned()).or_default();
        *total += count;
        for (error, now) in errors
            .iter_mut()
            .zip([f64::from(run_error), time_error, sigma_error])
        {
            *error = error.max(now);
        }
    }
    for (name, (count, [sample, timestep, sigma])) in &worst {
        println!(
            "{name}: {count} evaluations, samples {sample:.1e}, timesteps {timestep:.1e}, sigmas {sigma:.1e}"
        );
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(worst.len(), 12);
}

/// The zero-SNR betas that we compute, in the place of torch's: as in `tables.rs`, they differ where torch's roots do.
#[test]
fn runs_of_the_released_config() {
    let goldens = Goldens::read();
    let (start, noise, samples) = (
        goldens.f32("start"),
        goldens.f32("noise"),
        goldens.f32("samples"),
    );
    let mut at = 0;
    let mut errors = Vec::new();
    for run in goldens.cases["runs"].as_array().unwrap() {
        at += run["samples"].as_u64().unwrap() as usize;
        let config = &goldens.cases["configs"][run["config"].as_u64().unwrap() as usize];
        if config["rescale_betas_zero_snr"] != json!(true)
            || config["use_karras_sigmas"] == true
            || run.get("begin").is_some()
        {
            continue;
        }
        let name = run["name"].as_str().unwrap();
        let mut scheduler = from_config::<TestBackend>(config, name).unwrap();
        let steps = run["steps"].as_u64().unwrap() as usize;
        scheduler.set_timesteps(steps).unwrap();
        let mut draws = noise.chunks(SIZE);
        let mut source = |_: &Image| image(draws.next().unwrap());
        let mut x = image(&start) * scheduler.init_noise_sigma();
        for (index, t) in scheduler.timesteps().to_vec().into_iter().enumerate() {
            let input = scheduler.scale_model_input(x.clone(), index).unwrap();
            let args = StepArgs::with_noise(0.0, &mut source);
            x = scheduler.step(toy(input, t), index, x, args).unwrap();
        }
        let error = difference(&values(&x), &samples[at - SIZE..at]);
        errors.push((error, format!("{name}, {steps} steps, {config}")));
    }
    errors.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let (worst, case) = &errors[0];
    println!("{} runs, the worst {worst:e}: {case}", errors.len());
    assert!(errors.len() > 60, "{}", errors.len());
    assert!(*worst <= TOLERANCE, "{case}: {worst:e}");
}

/// What diffusers does without being asked: `rescale_betas_zero_snr` has no effect on five of its classes.
#[test]
fn the_betas_of_diffusers() {
    let goldens = Goldens::read();
    let model = &goldens.cases["configs"][0];
    assert_eq!(model["rescale_betas_zero_snr"], json!(true));
    let mut plain = model.clone();
    plain["rescale_betas_zero_snr"] = json!(false);
    let as_diffusers = SchedulerOptions {
        diffusers_betas: true,
        ..Default::default()
    };
    let x = image(&goldens.f32("start"));
    let noised = |scheduler: Box<dyn Scheduler<TestBackend>>| {
        values(
            &scheduler
                .add_noise(x.zeros_like(), x.clone(), &[981.0])
                .unwrap(),
        )
    };
    for (name, ignores) in [
        ("ddim", false),
        ("ddpm", false),
        ("euler", false),
        ("euler-ancestral", false),
        ("dpmsolver++", false),
        ("unipc", false),
        ("lcm", false),
        ("pndm", true),
        ("lms", true),
        ("heun", true),
        ("kdpm2", true),
        ("deis", true),
    ] {
        let ours = noised(from_config(model, name).unwrap());
        let theirs = noised(from_config_with(model, name, &as_diffusers).unwrap());
        let plain = noised(from_config(&plain, name).unwrap());
        assert_ne!(ours, plain, "{name}");
        assert_eq!(theirs, if ignores { plain } else { ours }, "{name}");
    }
}

/// The tables of the reference notes, from diffusers 0.42.1 on another processor.
#[test]
fn timesteps_and_sigmas_of_the_released_config() {
    let tables: Value = serde_json::from_str(include_str!("scheduler_timesteps.json")).unwrap();
    let mut count = 0;
    for row in tables["schedulers"].as_array().unwrap() {
        let name = row["name"].as_str().unwrap();
        let mut config = tables["base_config"].clone();
        for (key, value) in row["config"].as_object().unwrap() {
            config[key] = value.clone();
        }
        if name == "sde-dpmsolver++" {
            config["algorithm_type"] = json!(name);
        }
        if ["pndm", "lms", "heun", "kdpm2", "deis"].contains(&name) {
            // Ignored in diffusers.
            config["rescale_betas_zero_snr"] = json!(false);
        }
        let karras = config["use_karras_sigmas"] == json!(true);
        let zero_snr = config["rescale_betas_zero_snr"] == json!(true);
        let mut scheduler = from_config::<TestBackend>(&config, name).unwrap();
        for (steps, run) in row["runs"].as_object().unwrap() {
            let case = format!("{name}, {steps} steps, {}", row["config"]);
            let steps = steps.parse().unwrap();
            scheduler.set_timesteps(steps).unwrap();
            let numbers =
                |key: &str| -> Vec<f64> { serde_json::from_value(run[key].clone()).unwrap() };
            // Timesteps from Karras sigmas are as far off as the smallest sigma; those of solvers are then made whole.
            let tolerance = match (name, karras) {
                ("euler", true) => 0.1,
                (_, true) => 1.0,
                ("kdpm2", false) => 2e-3,
                (_, false) => 0.0,
            };
            let expected = numbers("timesteps");
            assert_eq!(scheduler.timesteps().len(), expected.len(), "{case}");
            for (a, b) in scheduler.timesteps().iter().zip(expected) {
                assert!((a - b).abs() <= tolerance, "{case}: timestep {a}, not {b}");
            }
            let expected = numbers("sigmas");
            let above_zero = expected.iter().copied().filter(|s| *s > 0.0);
            let expected_min = above_zero.fold(f64::INFINITY, f64::min);
            let ours = sigmas(name, &config, steps);
            if !expected.is_empty() {
                assert_eq!(ours.len(), expected.len(), "{case}");
            }
            for (a, b) in ours.into_iter().zip(expected) {
                // The signal agrees to 1e-6 (see `tables.rs`), of which σ = √((1-ᾱ)/ᾱ) makes 1e-6 / 2(1-ᾱ): at the first
                // timesteps three digits are left of 1 - ᾱ in f32. Karras sigmas depend on the first of them.
                let sigma = if karras { expected_min } else { b };
                let of_signal = 0.5e-6 * (1.0 + 1.0 / (sigma * sigma));
                let tolerance = if zero_snr { of_signal.min(2e-3) } else { 1e-6 };
                assert!((a - b).abs() <= tolerance * b, "{case}: sigma {a}, not {b}");
                count += 1;
            }
            let init = run["init_noise_sigma"].as_f64().unwrap();
            assert!(
                (scheduler.init_noise_sigma() - init).abs() <= 2e-6 * init,
                "{case}"
            );
        }
    }
    assert!(count > 800, "{count}");
}
