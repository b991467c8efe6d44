"""Models (what differs from the defaults) and example recipes, as YAML that ships with the package."""
