"""pfm-edge: train, evaluate and export pre-forgettable vision models for edge devices."""
