//! I2VGenXLUNet, the 3-D denoising UNet of I2VGen-XL.
