"""The second half: written and run once after the detectors were frozen, by somebody who had not read them."""
