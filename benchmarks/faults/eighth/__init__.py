"""The eighth set: written by somebody who had not read the detectors, of what people report."""
