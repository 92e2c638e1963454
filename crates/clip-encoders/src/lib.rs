//! CLIP text and vision towers, tokenizer and image processor.
