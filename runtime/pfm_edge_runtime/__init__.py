"""Torch-free device runtime for pre-forgettable models."""

