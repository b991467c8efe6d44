"""From rows to tensors: rendering, packing, collating, and the order of rows."""
