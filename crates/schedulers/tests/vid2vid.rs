//! MS-Vid2Vid-XL's sampling against the formulas in f64 (`tests/goldens/vid2vid_sampling`).

use burn::{
    backend::Flex,
    tensor::{Tensor, TensorData},
};
use i2vgen_schedulers::{Scheduler, StepArgs, Vid2VidScheduler, Vid2VidSolver};
use safetensors::SafeTensors;
use serde_json::Value;

type Image = Tensor<Flex, 4>;

const SHAPE: [usize; 4] = [1, 4, 2, 6];
const SIZE: usize = 48;

struct Goldens {
    bytes: Vec<u8>,
    cases: Value,
}

impl Goldens {
    fn read() -> Self {
        let folder = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/goldens/vid2vid_sampling"
        );
        Self {
            bytes: std::fs::read(format!("{folder}/sampling.safetensors")).unwrap(),
            cases: serde_json::from_slice(&std::fs::read(format!("{folder}/cases.json")).unwrap())
                .unwrap(),
        }
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = file.tensor(name).unwrap();
        let (words, _) = tensor.data().as_chunks::<4>();
        words.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }
}

fn image(values: &[f32]) -> Image {
    Tensor::from_data(TensorData::new(values.to_vec(), SHAPE), &Default::default())
}

fn values(image: &Image) -> Vec<f32> {
    image.to_data().to_vec().unwrap()
}

/// As in `generate.py`.
fn toy(x: Image, t: f64) -> Image {
    (x.clone() * 1.3 + 2.0 * (t / 1000.0)).sin() * 0.7 + x * 0.2 - 0.1
}

fn deviation(x: &Image) -> f64 {
    let x: Vec<f64> = values(x).into_iter().map(f64::from).collect();
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    (x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (x.len() - 1) as f64).sqrt()
}

fn guided(x: Image, t: f64) -> Image {
    let with = toy(x, t);
    let without = with.clone() * 0.5 + 0.1;
    let both = without.clone() + (with.clone() - without) * 7.5;
    let factor = 0.2 * deviation(&with) / deviation(&both) + 0.8;
    both * factor
}

#[test]
fn whole_runs() {
    let goldens = Goldens::read();
    let (z0, noise) = (goldens.f32("z0"), goldens.f32("noise"));
    let step_noise = goldens.f32("step_noise");
    let mut count = 0;
    for (name, run) in goldens.cases["runs"].as_object().unwrap() {
        let solver = match run["solver"].as_str().unwrap() {
            "heun" => Vid2VidSolver::Heun,
            "dpmpp_2m_sde" => Vid2VidSolver::Dpmpp2mSde,
            other => panic!("{other}"),
        };
        let steps = run["steps"].as_u64().unwrap() as usize;
        let mut scheduler = Vid2VidScheduler::<Flex>::new(solver);
        scheduler.set_timesteps(steps).unwrap();
        let timesteps: Vec<f64> = serde_json::from_value(run["timesteps"].clone()).unwrap();
        assert_eq!(scheduler.timesteps(), timesteps, "{name}");
        let sigmas = goldens.f32(&format!("{name}.sigmas"));
        assert_eq!(scheduler.sigmas().len(), sigmas.len(), "{name}");
        for (a, b) in scheduler.sigmas().iter().zip(&sigmas) {
            assert!(
                (a - f64::from(*b)).abs() <= 1e-5 * a,
                "{name}: {a}, not {b}"
            );
        }

        let samples = goldens.f32(&format!("{name}.samples"));
        let mut draws = step_noise.chunks(SIZE);
        let mut source = |_: &Image| image(draws.next().unwrap());
        let mut x = scheduler
            .add_noise(image(&z0), image(&noise), &timesteps[..1])
            .unwrap();
        let mut worst = 0f32;
        for (index, t) in timesteps.iter().copied().enumerate() {
            let input = scheduler.scale_model_input(x.clone(), index).unwrap();
            let output = match run["guided"].as_bool().unwrap() {
                true => guided(input, t),
                false => toy(input, t),
            };
            let args = StepArgs::with_noise(0.0, &mut source);
            x = scheduler.step(output, index, x, args).unwrap();
            // Heun's steps end at every second evaluation, and with the last.
            let step = match solver {
                Vid2VidSolver::Dpmpp2mSde => index,
                Vid2VidSolver::Heun if index % 2 == 1 => index / 2,
                Vid2VidSolver::Heun if index + 1 == timesteps.len() => steps - 1,
                Vid2VidSolver::Heun => continue,
            };
            let expected = &samples[step * SIZE..(step + 1) * SIZE];
            let scale = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
            for (a, b) in values(&x).iter().zip(expected) {
                let error = (a - b).abs() / scale;
                assert!(error <= 1e-5, "{name}, step {step}: {a}, not {b}");
                worst = worst.max(error);
            }
        }
        println!("{name}: {worst:.1e}");
        count += 1;
    }
    assert!(count >= 11);
}

#[test]
fn the_start() {
    let goldens = Goldens::read();
    let scheduler = Vid2VidScheduler::<Flex>::new(Vid2VidSolver::Heun);
    let (z0, noise) = (image(&goldens.f32("z0")), image(&goldens.f32("noise")));
    let start = scheduler.add_noise(z0, noise, &[599.0]).unwrap();
    let rho = scheduler.init_noise_sigma();
    assert!((rho - 4.1648).abs() < 1e-4, "{rho}");
    for (a, b) in values(&(start / rho)).iter().zip(goldens.f32("start")) {
        assert!((a - b).abs() <= 2e-6, "{a}, not {b}");
    }
}

#[test]
fn runs_that_cannot_be() {
    for solver in [Vid2VidSolver::Heun, Vid2VidSolver::Dpmpp2mSde] {
        let mut scheduler = Vid2VidScheduler::<Flex>::new(solver);
        assert!(scheduler.set_timesteps(0).is_err());
        assert!(scheduler.set_timesteps(600).is_err());
        scheduler.set_timesteps(599).unwrap();
        scheduler.set_timesteps(10).unwrap();
        let x = || image(&[0.5; SIZE]);
        let mut noise = |like: &Image| like.zeros_like();
        let args = StepArgs::with_noise(0.0, &mut noise);
        assert!(scheduler.step(x(), 1, x(), args).is_err(), "out of order");
        assert!(scheduler.set_begin_index(99).is_err());
        scheduler.set_begin_index(4).unwrap();
        let args = StepArgs::with_noise(0.0, &mut noise);
        scheduler.step(x(), 4, x(), args).unwrap();
        assert!(scheduler.add_noise(x(), x(), &[999.0]).is_err());
    }
}
