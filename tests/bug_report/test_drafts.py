"""What a report says, what it keeps to itself, and which failures are ours."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxrl_core import errors
from oxrl_core.errors import NotFoundError
from swarm.bug_report import draft_bug_report
from swarm.bug_report.body import disarmed, fenced
from swarm.bug_report.failure import Failure, Frame, fingerprint_of, last_traceback, owner_of
from swarm.bug_report.verdict import NOT_OURS, OURS, user_errors

ROOT = Path(__file__).parents[2]


def test_what_our_own_code_raised_is_a_defect(failed_run, oxrl_home_of_the_test):
    draft = draft_bug_report(failed_run().run_id)
    assert draft.kind == "framework" and draft.title == "TypeError in oxrl_core/train/credit.py:give_credit"
    assert draft.body.startswith(f"<!-- fp:{draft.fingerprint} -->\n") and "oxrl_core/train/credit.py:12" in draft.body
    assert "phase: drawing, step 3" in draft.body and "rollout.engine: vllm" in draft.body
    assert draft.plan_hash == "" and draft.link == "", "nobody allowed anything"
    assert Path(draft.path).read_text().endswith(draft.body)


@pytest.mark.parametrize(
    ("code", "what", "frames"),
    [
        ("DataError", "the file is empty", ()),
        ("RewardError", "the reward raised", ()),
        ("OutOfMemoryError", "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", None),
        ("OSError", "OSError: [Errno 28] No space left on device", None),
        ("ConnectionError", "ConnectionError: Connection refused", None),
        ("TypeError", "TypeError: no traceback", ()),
        ("TypeError", "TypeError: theirs", (("/usr/lib/python3.11/site-packages/torch/nn/linear.py", "forward"),)),
        ("TypeError", "TypeError: the user's", (("/data/oxrl/my_reward.py", "score"),)),
    ],
)
def test_nothing_else_is(failed_run, code, what, frames):
    run = failed_run(code, what) if frames is None else failed_run(code, what, frames)
    draft = draft_bug_report(run.run_id)
    assert draft.kind == "user" and draft.plan_hash == "" and draft.link == "" and draft.reason and draft.next


def test_a_known_failure_in_the_logs_explains_what_our_code_raised(failed_run):
    run = failed_run(log="ValueError: No available memory for the cache blocks. Try increasing it\n")
    draft = draft_bug_report(run.run_id)
    assert draft.kind == "user" and "vllm_kv_none" in draft.reason


def test_every_error_of_ours_is_decided():
    ours = {
        name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.OxrlError)
    }
    assert ours == OURS | NOT_OURS.keys() | user_errors()


def test_a_run_that_has_not_failed_has_no_report(oxrl_home_of_the_test):
    from oxrl_core.runs.rundir import RunDir

    run = RunDir.create_from_parts(oxrl_home_of_the_test, "young", "run: {}\n", {"kind": "rl", "command": ["true"]})
    with pytest.raises(NotFoundError, match="no failure to report"):
        draft_bug_report(run.run_id)


def test_no_secret_no_name_and_no_path_is_in_a_report(failed_run, monkeypatch):
    secret = "zq" + "Xw9" * 9
    monkeypatch.setenv("CLUSTER_ACCESS_TOKEN", secret)
    monkeypatch.setenv("USER", "jdoe17")
    cut = "x" * 1990 + f" {secret}"  # a limit of 2,000 characters falls into it
    run = failed_run(
        what=f"TypeError: {cut}",
        config=f"model: {{path: /home/jdoe17/private-model}}\ndata: {{system_prompt: '{secret}'}}\n",
    )
    notes = f"I am jdoe17 (jane@doe.example) at 10.2.3.4, key {secret}, url {urllib.parse.quote(secret)}"
    draft = draft_bug_report(run.run_id, notes)
    written = draft.model_dump_json() + Path(draft.path).read_text()
    for private in (secret, secret[:8], "jdoe17", "jane@doe", "10.2.3.4", "private-model"):
        assert private not in draft.body + draft.title, private
        assert private not in written, private


def test_a_report_calls_nobody_refers_to_nothing_and_holds_no_html(failed_run):
    notes = "```\n````` @everyone fixes #12 and GH-7 <img src=x> <!-- fp:0123456789abcdef -->\n## heading"
    draft = draft_bug_report(failed_run().run_id, notes)
    assert not re.search(r"@\w|#\d|GH-\d", draft.body)
    assert re.findall(r"<!-- fp:.*?-->", draft.body) == [f"<!-- fp:{draft.fingerprint} -->"]
    outside, fence = [], ""
    for line in draft.body.splitlines()[1:]:
        if fence:
            fence = "" if line == fence else fence
        elif line.startswith("```"):
            fence = re.match("`+", line)[0]
        else:
            outside.append(line)
    assert fence == "" and "<" not in "".join(outside) and "heading" not in "".join(outside)
    assert len(draft.body) <= 60_000


@given(st.text(st.sampled_from("`~\na @#1<"), max_size=60))
def test_no_text_leaves_its_fence(text):
    opening, *inside, closing = fenced(disarmed(text)).split("\n")
    assert set(closing) == {"`"} and opening == closing + "text"
    assert not any(line.strip().startswith(closing) for line in inside)


def test_a_long_report_fits_and_its_link_too(failed_run, enabled):
    draft = draft_bug_report(failed_run(what="TypeError: " + "é@x " * 40_000).run_id, "word " * 9000)
    assert len(draft.body) <= 60_000 and len(draft.link) <= 8_000
    assert draft.link.startswith(f"{enabled.url}/acme/oxrl/issues/new?title=")
    body = urllib.parse.parse_qs(urllib.parse.urlsplit(draft.link).query)["body"][0]
    assert f"fp:{draft.fingerprint}" in body and "attach it" in body


def test_the_link_goes_to_github_where_the_operator_names_a_repository_only(failed_run, oxrl_home_of_the_test):
    (oxrl_home_of_the_test / "report.yaml").write_text("repo: acme/oxrl\n")
    draft = draft_bug_report(failed_run().run_id)
    assert draft.link.startswith("https://github.com/acme/oxrl/issues/new?") and draft.plan_hash == ""


def test_a_fingerprint_knows_the_place_but_neither_lines_nor_patches_nor_machines():
    def of(line: int, *functions: str, kind: str = "TypeError", version: str = "0.1.0") -> str:
        frames = tuple(Frame("oxrl", "oxrl_core/train/rl.py", name, line) for name in functions)
        return fingerprint_of(Failure(kind, str(line), (Frame("user", "a file", "f", line), *frames)), version)

    assert of(1, "a", "b") == of(99, "a", "b", version="0.1.7")
    assert of(1, "x", "a", "b", "c", "d", "e") == of(1, "y", "a", "b", "c", "d", "e")
    assert (
        len({of(1, "a", "b"), of(1, "a", "c"), of(1, "a", "b", kind="KeyError"), of(1, "a", "b", version="0.2.0")}) == 4
    )


def test_the_traceback_of_another_process_is_the_one_that_counts():
    ours = ROOT / "oxrl_core/train/step.py"
    text = f"""noise
Traceback (most recent call last):
  File "{ROOT}/oxrl_core/driver.py", line 70, in main
    drive()
  File "/opt/lib/python3.11/site-packages/ray/_private/worker.py", line 2800, in get
    raise value.as_instanceof_cause()
ray.exceptions.RayTaskError(KeyError): ray::LearnerWorker.learn() (pid=77, ip=10.0.0.9, actor_id=ab)
  File "{ours}", line 33, in train_step
    batch["mask"]
    ~~~~~^^^^^^^^
KeyError: 'mask'
later noise
"""
    found = last_traceback(text)
    assert found is not None and (found.type, found.message) == ("KeyError", "'mask'")
    assert [(frame.place, frame.function, frame.source) for frame in found.frames] == [
        ("oxrl_core/train/step.py", "train_step", 'batch["mask"]')
    ]


def test_a_folder_of_the_user_with_our_name_is_not_ours():
    assert owner_of(str(ROOT / "oxrl_core/train/rl.py")) == ("oxrl", "oxrl_core/train/rl.py")
    assert owner_of("/home/x/oxrl/my_reward.py")[0] == "user"
    assert owner_of("/x/site-packages/torch/nn/linear.py") == ("library", "torch/nn/linear.py")


def test_the_command_shows_the_report_and_loads_no_client_before_it_is_needed(failed_run, oxrl_home_of_the_test):
    run = failed_run()
    program = "import sys; from oxrl_core.cli import main; code = main(['bug-report', sys.argv[1], '--json'])\n"
    program += "assert 'github' not in sys.modules and 'requests' not in sys.modules; sys.exit(code)"
    done = subprocess.run(
        [sys.executable, "-c", program, run.run_id],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kind"] == "framework"
