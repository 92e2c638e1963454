//! Diffusers model folders: configs, safetensors, load reports, saving.
