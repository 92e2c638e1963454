//! PyTorch checkpoints become a diffusers folder, without Python.
