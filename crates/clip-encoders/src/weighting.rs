//! Weights of parts of a prompt, in the notation of AUTOMATIC1111's web UI.
//!
//! | written | weight |
//! | --- | --- |
//! | `(x)` | 1.1 |
//! | `(x:1.3)` | 1.3 |
//! | `[x]` | 1 / 1.1 |
//! | `((x))`, `(a (b:1.2) c)` | nested brackets multiply: 1.21, and 1.32 for `b` |
//! | `\(` `\)` `\[` `\]` `\\` | the character itself |
//!
//! The number belongs to the round bracket that it closes; in square brackets a colon is text. Unlike there, brackets
//! that do not pair are an error.

use burn::tensor::{DType, Tensor, TensorData, backend::Backend};

use crate::{CLIPError, Encoding};

/// What a pair of brackets multiplies or divides by.
const STEP: f64 = 1.1;
/// Beyond this a picture only breaks; `(at 10:30)` is meant as a time.
const MAX_WEIGHT: f64 = 10.0;
/// Deeper brackets are a mistake, and would cost quadratic time.
const MAX_DEPTH: usize = 64;

/// A prompt as the text encoder reads it, with a weight for every token.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedEncoding {
    /// The tokens of the prompt without its brackets.
    pub encoding: Encoding,
    /// One per token; 1 for start, end and padding.
    pub weights: Vec<f32>,
}

/// A part of a prompt with one weight.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Segment {
    pub(crate) text: String,
    pub(crate) weight: f64,
}

/// An open bracket: itself, where it is, and which segment is its first.
struct Open(char, usize, usize);

/// The parts of a prompt in order. Their texts together are the prompt without its notation.
pub(crate) fn parse(prompt: &str) -> Result<Vec<Segment>, CLIPError> {
    let mut segments: Vec<Segment> = Vec::new();
    let mut stack: Vec<Open> = Vec::new();
    let mut text = String::new();
    let mut chars = prompt.chars().enumerate().peekable();
    let end_segment = |segments: &mut Vec<Segment>, text: &mut String| {
        if !text.is_empty() {
            let text = std::mem::take(text);
            segments.push(Segment { text, weight: 1.0 });
        }
    };
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => match chars.next_if(|(_, next)| "()[]\\".contains(*next)) {
                Some((_, literal)) => text.push(literal),
                None => text.push(c),
            },
            '(' | '[' => {
                if stack.len() == MAX_DEPTH {
                    let problem = format!("brackets are nested deeper than {MAX_DEPTH}");
                    return Err(fail(at, problem));
                }
                end_segment(&mut segments, &mut text);
                stack.push(Open(c, at, segments.len()));
            }
            ')' | ']' => {
                let opening = if c == ')' { '(' } else { '[' };
                let first = match stack.pop() {
                    Some(Open(bracket, _, first)) if bracket == opening => first,
                    _ => {
                        let problem = format!("'{c}' closes no '{opening}'; write \\{c} for one");
                        return Err(fail(at, problem));
                    }
                };
                let factor = match c {
                    ')' => take_number(&mut text, at)?.unwrap_or(STEP),
                    _ => 1.0 / STEP,
                };
                end_segment(&mut segments, &mut text);
                for segment in &mut segments[first..] {
                    segment.weight *= factor;
                    if segment.weight > MAX_WEIGHT {
                        return Err(too_large(at, segment.weight));
                    }
                }
            }
            _ => text.push(c),
        }
    }
    if let Some(Open(bracket, at, _)) = stack.pop() {
        let problem = format!("'{bracket}' is never closed; write \\{bracket} for one");
        return Err(fail(at, problem));
    }
    end_segment(&mut segments, &mut text);
    Ok(segments)
}

/// Cuts a `:number` off the end of a bracket's text. Anything else after a colon is text.
fn take_number(text: &mut String, at: usize) -> Result<Option<f64>, CLIPError> {
    let Some((before, number)) = text.rsplit_once(':') else {
        return Ok(None);
    };
    let number = number.trim();
    let numeric = |c: char| c.is_ascii_digit() || ".+-eE".contains(c);
    if !number.contains(|c: char| c.is_ascii_digit()) || !number.chars().all(numeric) {
        return Ok(None);
    }
    let weight: f64 = number
        .parse()
        .map_err(|_| fail(at, format!("'{number}' is not a weight; write (text:1.2)")))?;
    if !(0.0..=MAX_WEIGHT).contains(&weight) {
        return Err(too_large(at, weight));
    }
    let length = before.len();
    text.truncate(length);
    Ok(Some(weight))
}

fn too_large(at: usize, weight: f64) -> CLIPError {
    let range = format!("weight {weight} is not from 0 to {MAX_WEIGHT}");
    fail(
        at,
        format!("{range}; if no weight is meant, write \\( and \\)"),
    )
}

fn fail(at: usize, problem: String) -> CLIPError {
    CLIPError::Weighting {
        position: at + 1,
        problem,
    }
}

/// The weight of each token, from where in the joined texts it starts: a word that is only partly in brackets
/// may become tokens that begin in one segment and end in the next.
pub(crate) fn token_weights(segments: &[Segment], starts: impl Iterator<Item = usize>) -> Vec<f32> {
    let mut end = 0;
    let ends: Vec<usize> = segments
        .iter()
        .map(|segment| {
            end += segment.text.len();
            end
        })
        .collect();
    starts
        .map(|start| {
            let segment = segments.get(ends.partition_point(|end| *end <= start));
            segment.map_or(1.0, |segment| segment.weight as f32)
        })
        .collect()
}

/// Multiplies the hidden state of every token by its weight, then each row as a whole by the factor that restores its
/// mean: `y = z · w`, `y · mean(z) / mean(y)`, in f32. This is AUTOMATIC1111's rule. Weights that are all 1 change
/// nothing, to the bit.
///
/// # Shapes
/// `hidden [b, n, c]`, `n` weights → `[b, n, c]`
///
/// # Errors
/// If there is not one weight per token, or one is not finite.
pub fn apply_weights<B: Backend>(
    hidden: Tensor<B, 3>,
    weights: &[f32],
) -> Result<Tensor<B, 3>, CLIPError> {
    let [_, tokens, _] = hidden.dims();
    if weights.len() != tokens {
        return Err(CLIPError::WeightCount {
            weights: weights.len(),
            tokens,
        });
    }
    if let Some(bad) = weights.iter().position(|w| !w.is_finite()) {
        let problem = format!("the weight of token {bad} is {}", weights[bad]);
        return Err(fail(bad, problem));
    }
    if weights.iter().all(|w| *w == 1.0) {
        return Ok(hidden);
    }
    let (device, dtype) = (hidden.device(), hidden.dtype());
    let data = TensorData::new(weights.to_vec(), [1, tokens, 1]);
    let weights = Tensor::<B, 3>::from_data(data, (&device, DType::F32));
    let mean = |x: &Tensor<B, 3>| x.clone().mean_dim(2).mean_dim(1);
    let z = hidden.cast(DType::F32);
    let y = z.clone() * weights;
    let after = mean(&y);
    // A mean of exactly zero cannot be restored.
    let none = after.clone().equal_elem(0.0);
    let ratio = (mean(&z) / after).mask_fill(none, 1.0);
    Ok((y * ratio).cast(dtype))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Segments with their weights, rounded to six digits.
    fn parsed(prompt: &str) -> Vec<(String, f64)> {
        let segments = parse(prompt).expect("valid");
        let round = |w: f64| (w * 1e6).round() / 1e6;
        segments
            .into_iter()
            .map(|s| (s.text, round(s.weight)))
            .collect()
    }

    fn list(expected: &[(&str, f64)]) -> Vec<(String, f64)> {
        expected.iter().map(|(t, w)| ((*t).into(), *w)).collect()
    }

    #[test]
    fn the_notation() {
        let cases: [(&str, &[(&str, f64)]); 16] = [
            ("", &[]),
            ("plain", &[("plain", 1.0)]),
            ("a (b) c", &[("a ", 1.0), ("b", 1.1), (" c", 1.0)]),
            ("((a))", &[("a", 1.21)]),
            ("(a:1.3)", &[("a", 1.3)]),
            ("(a: 1.3 )", &[("a", 1.3)]),
            ("[a]", &[("a", 0.909091)]),
            ("[(a)]", &[("a", 1.0)]),
            ("(a (b:1.2) c:1.5)", &[("a ", 1.5), ("b", 1.8), (" c", 1.5)]),
            ("(a (b):1.5)", &[("a ", 1.5), ("b", 1.65)]),
            ("(a:b:0.5)", &[("a:b", 0.5)]),
            ("[a:1.3]", &[("a:1.3", 0.909091)]),
            ("(a: b)", &[("a: b", 1.1)]),
            (r"\(a\) \[b\] \\ \c", &[(r"(a) [b] \ \c", 1.0)]),
            (r"(a\):0.5)", &[("a)", 0.5)]),
            ("()(:2)(a:0)", &[("a", 0.0)]),
        ];
        for (prompt, expected) in cases {
            assert_eq!(parsed(prompt), list(expected), "{prompt}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let deep = "(".repeat(70);
        let many = format!("{}a{}", "(".repeat(30), ")".repeat(30));
        for (prompt, part) in [
            ("a (b", "character 3: '(' is never closed"),
            ("a) b", "character 2: ')' closes no '('"),
            ("(a]", "character 3: ']' closes no '['"),
            ("[a)", "character 3: ')' closes no '('"),
            ("(at 10:30)", "weight 30 is not from 0 to 10"),
            ("(a:1e999)", "weight inf"),
            ("(a:-1)", "weight -1"),
            ("(a:1.2.3)", "'1.2.3' is not a weight"),
            ("((a:9):9)", "weight 81"),
            (deep.as_str(), "nested deeper"),
            (many.as_str(), "is not from 0 to 10"),
        ] {
            let error = parse(prompt).expect_err(prompt).to_string();
            assert!(error.contains(part), "{prompt}: {error}");
        }
    }

    #[test]
    fn a_token_has_the_weight_of_its_first_character() {
        let segments = parse("ab(cd:2)(e:3)").expect("valid");
        let weights = token_weights(&segments, [0, 1, 2, 3, 4, 5].into_iter());
        assert_eq!(weights, [1.0, 1.0, 2.0, 2.0, 3.0, 1.0]);
    }
}
