//! What a backend has no part in, or would only repeat.

mod burnpack;
mod demo_moves;
mod folders;
mod from_the_hub;
mod half_weights;
mod imported_onnx;
mod parameter_counts;
mod published_tokenizer;
