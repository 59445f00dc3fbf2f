"""Mask proposers through Hugging Face transformers: Mask2Former, EoMT, SAM and SAM 2."""
