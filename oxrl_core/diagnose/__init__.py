"""Why a run went wrong: ranked causes with evidence and a patch that is ready to use, from its run directory alone.

facts.py        what the run left behind, read lazily and tolerantly
detectors/      small functions: facts -> what was seen; found by walking
signatures.yaml texts of known failures; logs.py finds them in logs of any size
causes.yaml     what each cause means, which other findings it explains, and what can be done
plans.py        patches on the configuration, out of the plans of both tables
diagnosis.py    all of it together
"""
