//! Every value in `rng_vectors.json`, which torch 2.15 wrote on a CPU with AVX2, to the bit.

use serde_json::Value;
use torch_rng::Generator;

fn vectors() -> Value {
    serde_json::from_str(include_str!("rng_vectors.json")).unwrap()
}

fn bits(values: &Value) -> Vec<u32> {
    let values = values.as_array().unwrap();
    let hex = |v: &Value| u32::from_str_radix(v.as_str().unwrap(), 16).unwrap();
    values.iter().map(hex).collect()
}

/// Python's `float.hex()`.
fn hex_f64(text: &str) -> f64 {
    let (sign, text) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text),
    };
    let (mantissa, exponent) = text.strip_prefix("0x").unwrap().split_once('p').unwrap();
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = u64::from_str_radix(&format!("{whole}{fraction}"), 16).unwrap();
    let exponent: i32 = exponent.parse().unwrap();
    sign * digits as f64 * 2f64.powi(exponent - 4 * fraction.len() as i32)
}

fn assert_bits(actual: &[f32], expected: &Value, what: &str) {
    let actual: Vec<u32> = actual.iter().map(|v| v.to_bits()).collect();
    assert_eq!(actual, bits(expected), "{what}");
}

fn draw(case: &Value) -> (u64, usize, Generator) {
    let seed = case["seed"].as_u64().unwrap();
    let n = case["n"].as_u64().unwrap() as usize;
    (seed, n, Generator::new(seed))
}

#[test]
fn words() {
    // A word shows through rand_f64: 53 of the bits of two words.
    for (seed, words) in vectors()["mt19937_u32"].as_object().unwrap() {
        let words: Vec<u64> = words
            .as_array()
            .unwrap()
            .iter()
            .map(|w| w.as_u64().unwrap())
            .collect();
        let expected: Vec<f64> = words
            .chunks(2)
            .map(|w| (((w[0] << 32) | w[1]) & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64)
            .collect();
        let mut generator = Generator::new(seed.parse().unwrap());
        assert_eq!(generator.rand_f64(expected.len()), expected, "seed {seed}");
    }
}

#[test]
fn f32_of_every_length() {
    for case in vectors()["f32"].as_array().unwrap() {
        let (seed, n, mut generator) = draw(case);
        let values = generator.randn_f32(n);
        let k = case["head"].as_array().unwrap().len();
        assert_bits(
            &values[..k],
            &case["head"],
            &format!("seed {seed}, n {n}, head"),
        );
        assert_bits(
            &values[n - k..],
            &case["tail"],
            &format!("seed {seed}, n {n}, tail"),
        );
    }
}

#[test]
fn f64() {
    for case in vectors()["f64"].as_array().unwrap() {
        let (seed, n, mut generator) = draw(case);
        let expected: Vec<f64> = case["values"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| hex_f64(v.as_str().unwrap()))
            .collect();
        let values = generator.randn_f64(n);
        for (i, (a, b)) in values.iter().zip(&expected).enumerate() {
            // Only the C library that torch itself was built on gives the last bit.
            let exact = cfg!(all(
                target_os = "linux",
                target_env = "gnu",
                target_arch = "x86_64"
            ));
            let tolerance = if exact {
                0.0
            } else {
                4.0 * f64::EPSILON * b.abs()
            };
            assert!(
                (a - b).abs() <= tolerance,
                "seed {seed}, n {n}, value {i}: {a} is not {b}"
            );
        }
    }
}

#[test]
fn f16_and_bf16() {
    let f16 = |bits: u16| {
        let fraction = f32::from(bits & 0x3ff);
        let magnitude = match (bits >> 10) & 31 {
            0 => fraction * 2f32.powi(-24),
            e => (1.0 + fraction / 1024.0) * 2f32.powi(i32::from(e) - 15),
        };
        if bits & 0x8000 == 0 {
            magnitude
        } else {
            -magnitude
        }
    };
    let bf16 = |bits: u16| f32::from_bits(u32::from(bits) << 16);
    let vectors = vectors();
    for (name, half) in [("f16", true), ("bf16", false)] {
        for case in vectors[name].as_array().unwrap() {
            let (seed, n, mut generator) = draw(case);
            let values: Vec<f64> = if half {
                generator
                    .randn_f16_bits(n)
                    .into_iter()
                    .map(|b| f64::from(f16(b)))
                    .collect()
            } else {
                generator
                    .randn_bf16_bits(n)
                    .into_iter()
                    .map(|b| f64::from(bf16(b)))
                    .collect()
            };
            let expected: Vec<f64> = case["values"]
                .as_array()
                .unwrap()
                .iter()
                .map(|v| v.as_f64().unwrap())
                .collect();
            assert_eq!(values, expected, "{name}, seed {seed}, n {n}");
        }
    }
}

#[test]
fn one_stream_for_a_sequence_of_draws() {
    let vectors = vectors();
    let sequence = &vectors["sequence"];
    let mut generator = Generator::new(sequence["seed"].as_u64().unwrap());
    for (i, draw) in sequence["draws"].as_array().unwrap().iter().enumerate() {
        let values = generator.randn_f32(draw["n"].as_u64().unwrap() as usize);
        let key = if draw["values"].is_null() {
            "head"
        } else {
            "values"
        };
        let k = draw[key].as_array().unwrap().len();
        assert_bits(&values[..k], &draw[key], &format!("draw {i}"));
    }
}

#[test]
fn the_default_latents() {
    let vectors = vectors();
    let case = &vectors["default_latents_seed8888"];
    let shape = case["shape"].as_array().unwrap();
    let n = shape.iter().map(|d| d.as_u64().unwrap() as usize).product();
    let values = Generator::new(8888).randn_f32(n);
    assert_bits(&values[..16], &case["head"], "head");
    assert_bits(&values[n - 16..], &case["tail"], "tail");
    let sum: f64 = values.iter().map(|v| f64::from(*v)).sum();
    let squares: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
    assert!((sum - case["sum_f64"].as_f64().unwrap()).abs() < 1e-7);
    assert!((squares - case["sumsq_f64"].as_f64().unwrap()).abs() < 1e-5);
}

#[test]
fn seeding_again_forgets_the_spare_value() {
    let mut generator = Generator::new(7);
    let first = generator.randn_f32(1);
    generator.manual_seed(7);
    assert_eq!(generator.randn_f32(1), first);
    assert!(generator.randn_f32(0).is_empty());
    assert_eq!(generator.seed(), 7);
}

#[test]
fn rand_of_every_dtype() {
    let f32 = Generator::new(0).rand_f32(3);
    assert_eq!(f32, [0.4962566, 0.7682218, 0.08847743]);
    assert_eq!(
        Generator::new(0).rand_f64(2),
        [0.9700530018065531, 0.707819864399788]
    );
    assert_eq!(Generator::new(0).rand_f16_bits(2), [0x37f1, 0x3a25]);
    assert_eq!(Generator::new(0).rand_bf16_bits(2), [0x3efe, 0x3f45]);
    // Value 6760 of seed 3 is 0.99985, which rounds to 1 in the half types; torch then gives 0.
    assert_eq!(Generator::new(3).rand_f16_bits(6761)[6760], 0);
    assert_eq!(Generator::new(3).rand_bf16_bits(6761)[6760], 0);
}
