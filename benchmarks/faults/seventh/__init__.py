"""A seventh part, written by somebody who had read neither the detectors nor the parts between."""
