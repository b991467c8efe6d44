"""One reward, one function of a rollout. No torch is imported here."""
