"""A sixth set, written blind by somebody who had not read the detectors: what people report of their own runs."""
