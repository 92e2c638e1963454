//! Steps, tables and whole runs of diffusers' DDIMScheduler over hundreds of combinations of options
//! (`tests/goldens/schedulers/ddim/generate.py`).

use std::{fs, path::PathBuf};

use burn::tensor::{Tensor, TensorData, Tolerance};
use i2vgen_schedulers::{DDIMScheduler, DDIMSchedulerConfig, Scheduler, StepArgs};
use i2vgen_tests::{TestBackend, repository};
use safetensors::SafeTensors;
use serde_json::{Map, Value, json};

type Image = Tensor<TestBackend, 4>;

const STEP: usize = 2 * 3 * 2 * 2;

struct Goldens {
    bytes: Vec<u8>,
    cases: Value,
}

impl Goldens {
    /// From the repository, or from where `generate.py --all` wrote every combination.
    fn read() -> Self {
        let folder = match std::env::var_os("DDIM_GOLDENS") {
            Some(folder) => PathBuf::from(folder),
            None => repository("tests/goldens/schedulers/ddim"),
        };
        Self {
            bytes: fs::read(folder.join("ddim.safetensors")).unwrap(),
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

    /// Image number `i` of a tensor.
    fn image(&self, name: &str, i: usize) -> Image {
        let values = self.f32(name)[i * STEP..(i + 1) * STEP].to_vec();
        Tensor::from_data(TensorData::new(values, [2, 3, 2, 2]), &Default::default())
    }

    /// The entries that a case picks, one character for each axis.
    fn fields(&self, case: &str) -> Value {
        let mut fields = Map::new();
        for (axis, pick) in self.cases["axes"]
            .as_array()
            .unwrap()
            .iter()
            .zip(case.chars())
        {
            let entry = &axis[pick.to_digit(10).unwrap() as usize];
            fields.extend(entry.as_object().unwrap().clone());
        }
        Value::Object(fields)
    }
}

fn scheduler(fields: &Value) -> DDIMScheduler<TestBackend> {
    DDIMScheduler::new(DDIMSchedulerConfig::from_json(fields).unwrap()).unwrap()
}

/// The largest difference, relative to the larger of 1 and the largest expected value.
fn difference(actual: &Image, expected: &[f32]) -> f32 {
    let actual: Vec<f32> = actual.to_data().to_vec().unwrap();
    assert_eq!(actual.len(), expected.len());
    let scale = expected.iter().fold(1.0f32, |m, v| m.max(v.abs()));
    let differences = actual
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs() / scale);
    // NaN must not pass for a small difference.
    differences.fold(0.0, |m, d| if d <= m { m } else { d })
}

/// With torch's own zero-SNR betas, so that only the steps are compared (see `tables.rs` for why).
#[test]
fn steps_of_many_configs() {
    let goldens = Goldens::read();
    let (prev, original) = (
        goldens.f32("prev_sample"),
        goldens.f32("pred_original_sample"),
    );
    let inputs: Vec<[Image; 3]> = (0..3)
        .map(|i| ["sample", "output", "noise"].map(|name| goldens.image(name, i)))
        .collect();
    let (mut worst, mut exact, mut count) = (0.0f32, 0, 0);
    for (number, case) in goldens.cases["cases"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
    {
        let case = case.as_str().unwrap();
        let mut fields = goldens.fields(case);
        if fields["rescale_betas_zero_snr"] == json!(true) {
            let schedule = 2 * case[..1].parse::<usize>().unwrap() + 1;
            fields["trained_betas"] = json!(goldens.f32(&format!("betas.{schedule}")));
            fields["rescale_betas_zero_snr"] = json!(false);
        }
        let eta = fields["eta"].as_f64().unwrap();
        let mut scheduler = scheduler(&fields);
        scheduler
            .set_timesteps(fields["num_inference_steps"].as_u64().unwrap() as usize)
            .unwrap();
        let last = scheduler.timesteps().len() - 1;
        for (i, index) in [0, last.div_ceil(2), last].into_iter().enumerate() {
            let [sample, output, noise] = inputs[i].clone();
            let mut draws = 0;
            let mut source = |_: &Image| {
                draws += 1;
                noise.clone()
            };
            let args = StepArgs {
                use_clipped_model_output: fields["use_clipped_model_output"].as_bool().unwrap(),
                ..StepArgs::with_noise(eta, &mut source)
            };
            let out = scheduler.step_output(output, index, sample, args).unwrap();
            assert_eq!(draws, usize::from(eta > 0.0), "case {case}");
            let at = (3 * number + i) * STEP;
            let mut error = difference(&out.prev_sample, &prev[at..at + STEP]);
            if i == 1 {
                let expected = &original[number * STEP..(number + 1) * STEP];
                error = error.max(difference(&out.pred_original_sample, expected));
            }
            // From pure noise with eta 1, the direction's weight is 0. torch has the root of a rounding error there,
            // or NaN, by processor (tests/goldens/schedulers/reference_spread.py).
            let signal = scheduler.alphas_cumprod()[scheduler.timesteps()[index] as usize];
            if signal == 0.0 && eta == 1.0 {
                assert!(
                    error <= 5e-4,
                    "case {case}, step {index} differs by {error}"
                );
                continue;
            }
            assert!(
                error <= 2e-6,
                "case {case}, step {index} differs by {error}"
            );
            worst = worst.max(error);
            exact += usize::from(error == 0.0);
            count += 1;
        }
    }
    println!("{exact} of {count} steps to the bit, the others within {worst:e}");
    assert!(count >= 1000);
}

#[test]
fn alphas_cumprod_of_every_schedule() {
    let goldens = Goldens::read();
    for i in 0..8 {
        let fields = goldens.fields(&format!("{}{}", i / 2, i % 2));
        // Zero SNR takes roots, which torch does not round correctly on every CPU (see tables.rs).
        let tolerance = if i % 2 == 1 { 1e-5 } else { 0.0 };
        let expected = goldens.f32(&format!("alphas_cumprod.{i}"));
        let scheduler = scheduler(&fields);
        assert_eq!(scheduler.alphas_cumprod().len(), expected.len());
        let pairs = scheduler.alphas_cumprod().iter().zip(&expected);
        let worst = pairs
            .clone()
            .map(|(a, b)| (a - b).abs() / b.max(1e-4))
            .fold(0.0, f32::max);
        println!("schedule {i}: relative difference at most {worst:e}");
        assert!(worst <= tolerance, "{worst}: {fields}");
    }
}

#[test]
fn timesteps_of_every_spacing_and_length() {
    let goldens = Goldens::read();
    // The bits of the tensor's i32.
    let expected: Vec<i64> = goldens
        .f32("timestep_sums")
        .iter()
        .map(|v| i64::from(v.to_bits() as i32))
        .collect();
    for (row, spacing) in ["leading", "linspace", "trailing"].into_iter().enumerate() {
        let mut scheduler =
            scheduler(&json!({ "timestep_spacing": spacing, "prediction_type": "sample" }));
        for steps in 1..=1000 {
            scheduler.set_timesteps(steps).unwrap();
            let timesteps = scheduler.timesteps();
            assert_eq!(timesteps.len(), steps);
            let sum: i64 = (1..).zip(timesteps).map(|(i, t)| i * *t as i64).sum();
            assert_eq!(
                sum,
                expected[1000 * row + steps - 1],
                "{spacing}, {steps} steps"
            );
        }
    }
}

#[test]
fn a_whole_run() {
    let goldens = Goldens::read();
    let mut scheduler = scheduler(&goldens.cases["loop"]);
    scheduler.set_timesteps(50).unwrap();
    let mut x = goldens.image("sample", 0);
    for index in 0..50 {
        let input = scheduler.scale_model_input(x.clone(), index).unwrap();
        let output = input * 0.5 - 0.25;
        x = scheduler
            .step(output, index, x, StepArgs::default())
            .unwrap();
    }
    let error = difference(&x, &goldens.f32("loop"));
    println!("50 steps: within {error:e}");
    assert!(error <= 1e-6, "{error}");
}

#[test]
fn noise_and_velocity() {
    let goldens = Goldens::read();
    let scheduler = scheduler(&goldens.cases["loop"]);
    let (sample, noise) = (goldens.image("sample", 0), goldens.image("noise", 0));
    let at = [3.0, 981.0];
    let noisy = scheduler
        .add_noise(sample.clone(), noise.clone(), &at)
        .unwrap();
    let velocity = scheduler
        .get_velocity(sample.clone(), noise.clone(), &at)
        .unwrap();
    assert_eq!(difference(&noisy, &goldens.f32("add_noise")), 0.0);
    assert_eq!(difference(&velocity, &goldens.f32("velocity")), 0.0);
    // One timestep for all is as one for each.
    let all = scheduler
        .add_noise(sample.clone(), noise.clone(), &[3.0])
        .unwrap();
    let each = scheduler.add_noise(sample, noise, &[3.0, 3.0]).unwrap();
    all.to_data()
        .assert_approx_eq::<f32>(&each.to_data(), Tolerance::absolute(0.0));
}
