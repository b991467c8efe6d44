"""Faults planted into otherwise healthy runs, and whether `oxrl diagnose` names them.

    python -m benchmarks.faults                        all faults and the clean runs, with precision and recall
    python -m benchmarks.faults --only lr_100x,leak    some of them
    python -m benchmarks.faults --part third --no-clean --jobs 2        one folder of definitions, two runs at once
    python -m benchmarks.faults --only NAME --dry      plant and run, and diagnose nothing: does the plant do it?
    python -m benchmarks.faults --json report.json     the table as JSON

A fault is a `Fault` (define.py) in any module of a folder beside this file (`first/` to `eighth/`):

    Fault(
        name="lr_100x",                             # unique
        planted="the learning rate is 100 times too high",
        expected={"lr_too_high"},                   # any of these first is right (causes.yaml, signatures.yaml)
        recipe="sgrpo",                             # a healthy recipe on miniature:chars
        overrides=["train.lr=0.1"],                 # beside FIXED in define.py, which keeps runs short
        plant=None,                                 # a function (run directory) -> None, called in the run's own
                                                    # process before it is built: it may replace anything there
        supervised=False,                           # True: the run has a real supervisor and a process of its own
        starts=True,                                # False: the run is made and never started
        during=None,                                # supervised: a function (run) -> None, called once it runs
        after=None,                                 # a function (run) -> None, called before the diagnosis
    )

Plants that need Python files (rewards, losses, data sets) stand in plants.py and the like; what plants do to a process
(act before a step, take gradients away, stop and go on) stands in patches.py. A fault must be one that
happens to people; what is expected must be what a person would want to be told. Detectors are not changed for the
sake of a fault: where one is missed, the table says so.
"""
