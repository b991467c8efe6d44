"""Scout and Bugfixer, which onboard models into the registry. Empty so far: nothing here is promised in the README."""
