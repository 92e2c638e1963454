//! Diffusion schedulers with diffusers' names and numbers.
