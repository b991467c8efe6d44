"""One loss, one function: tensors in, one value per token out. No torch is imported here."""
