"""The states of an onboarding one after the other; a restart goes on with the first that was not left."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from oxrl_core.errors import OxrlError
from oxrl_core.runs.rundir import RunDir
from swarm.bugfix.repair import NeedsInput
from swarm.onboard.journal import STATES, Journal
from swarm.onboard.order import decisions_of, read_order
from swarm.onboard.states import Onboarding

STOPPED = 143  # 128 + SIGTERM


class GivenUp(OxrlError):
    """The caller gave the onboarding up."""


class StopAsked(BaseException):
    """Somebody asked the onboarding to leave; no handler of errors is to catch it."""


class Stop:
    """Remembers a SIGTERM until the machine is where it can leave."""

    def __init__(self) -> None:
        self.asked = False

    def install(self) -> None:
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True

    def check(self) -> None:
        if self.asked:
            raise StopAsked


def onboard(run: RunDir, stop: Stop) -> int:
    """The exit code of the onboarding's driver. Its last word stands in the run directory."""
    journal = Journal(run)
    onboarding = Onboarding(run, read_order(run), journal, stop.check)
    given_up = next((line for line in decisions_of(run) if line["action"] == "give_up"), None)
    try:
        if given_up is not None:
            journal.note("given_up", "", reason=given_up["reason"])
            raise GivenUp(f"given up: {given_up['reason'] or 'no reason was named'}", run.run_id, "draft_bug_report")
        for state in STATES:
            stop.check()
            if state not in journal.facts:
                run.write_progress(state, journal.finished, len(STATES))
            facts = journal.run(state, getattr(onboarding, state))
            print(f"{state}: {_shown(facts)}", flush=True)
    except StopAsked:
        onboarding.stop_children("the onboarding was stopped")
        run.write_progress("stopped", journal.finished, len(STATES))
        return STOPPED
    except NeedsInput as error:
        journal.note("parked", "", why=error.what, where=error.where)
        run.append_event("warning", "needs_input", f"{error.where}: {error.what}", next="steer_onboarding")
        print(f"needs input: {error}", flush=True)
        run.write_progress("needs_input", journal.finished, len(STATES))
        return 0
    except OxrlError as error:
        run.write_error(error.as_dict())
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    run.write_progress("finished", len(STATES), len(STATES))
    return 0


def _shown(facts: dict[str, object]) -> str:
    return ", ".join(f"{name}={str(value)[:80]}" for name, value in facts.items() if "\n" not in str(value))
