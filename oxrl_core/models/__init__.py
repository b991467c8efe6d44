"""Models below the torch line: where they come from, adapters, and log-probs out of them."""
