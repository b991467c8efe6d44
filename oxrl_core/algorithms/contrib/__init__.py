"""Preference losses beyond the common ones: one published loss in each file, shown to have its paper's property."""
