"""Sealing, signing, key derivation and wrapping: the only package that touches cryptographic primitives."""
