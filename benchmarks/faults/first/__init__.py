"""The first half: written together with the detectors."""
