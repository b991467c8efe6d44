"""The fifth part: written without a look at the detectors, and run once after they were frozen."""
