"""Devices: real inference engines with fixed settings, and what they measure."""
