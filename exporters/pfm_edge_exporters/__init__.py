"""Exporters: a pre-forgettable backbone, once, for every target."""

