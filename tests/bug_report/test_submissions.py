"""What is sent, to whom, how often, and what is left when somebody dies in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from oxrl_core.errors import ConfigError, MachineError
from oxrl_core.runs.records import read_lines
from swarm.bug_report import draft_bug_report, ledger, submit_bug_report, tracker

ROOT = Path(__file__).parents[2]
MODULES = ("credit", "draw", "journal", "learner", "lessons", "rl", "sl", "step", "tally", "groups")


@pytest.fixture
def draft(failed_run, enabled):
    return draft_bug_report(failed_run().run_id)


def test_a_confirmed_report_becomes_one_issue(draft, enabled):
    sent = submit_bug_report(draft.draft_id, draft.plan_hash)
    assert (sent.state, sent.url) == ("sent", f"{enabled.url}/acme/oxrl/issues/1")
    assert (enabled.issues[0]["title"], enabled.issues[0]["body"]) == (draft.title, draft.body)
    again = submit_bug_report(draft.draft_id, draft.plan_hash)
    assert (again.state, again.duplicate_of, len(enabled.issues)) == ("duplicate", sent.url, 1)
    assert draft_bug_report(draft.run_id, "other words").duplicate_of == sent.url


def test_nothing_is_sent_without_the_hash_of_this_text_for_this_place(draft, enabled, oxrl_home_of_the_test):
    other = draft_bug_report(draft.run_id, "other words")
    for wrong in ("", "0" * 64, other.plan_hash, draft.plan_hash[:-1]):
        with pytest.raises(ConfigError, match="plan hash"):
            submit_bug_report(draft.draft_id, wrong)
    path = oxrl_home_of_the_test / "report.yaml"
    path.write_text(path.read_text().replace("acme/oxrl", "acme/elsewhere"))
    with pytest.raises(ConfigError, match="plan hash"):
        submit_bug_report(draft.draft_id, draft.plan_hash)
    assert enabled.requests == []


def test_nothing_is_sent_about_what_is_no_defect_of_ours(failed_run, enabled):
    draft = draft_bug_report(failed_run("DataError", "empty", ()).run_id)
    with pytest.raises(ConfigError, match="no defect"):
        submit_bug_report(draft.draft_id, draft.plan_hash)
    assert enabled.requests == []


def test_nothing_is_sent_unless_the_operator_allows_it(draft, enabled, oxrl_home_of_the_test):
    (oxrl_home_of_the_test / "report.yaml").write_text("repo: acme/oxrl\n")
    sent = submit_bug_report(draft.draft_id, draft.plan_hash)
    assert sent.state == "not_sent" and sent.link and Path(sent.path).is_file() and enabled.requests == []


@pytest.mark.parametrize(
    "text",
    [
        "enabled: true\n",
        "enabled: true\nrepo: a/b/c\n",
        "repo: a/b\napi: http://example.org\n",
        "repo: a/b\napi: ftp://x\n",
        "repo: a/b\nmax_per_day: 0\n",
        "repo: a/b\ntoken: x\n",
    ],
)
def test_a_wrong_operator_file_is_named(text, failed_run, oxrl_home_of_the_test):
    run = failed_run()
    (oxrl_home_of_the_test / "report.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"report\.yaml"):
        draft_bug_report(run.run_id)


def test_a_duplicate_on_the_third_page_of_closed_issues_is_found(draft, enabled):
    enabled.add(f"found by somebody\n<!-- fp:{draft.fingerprint} -->", "closed")
    for number in range(260):
        enabled.add(f"another one {number} <!-- fp:0000000000000000 -->", "closed" if number % 2 else "open")
    sent = submit_bug_report(draft.draft_id, draft.plan_hash)
    assert (sent.state, sent.url) == ("duplicate", f"{enabled.url}/acme/oxrl/issues/1")
    assert enabled.posts == 0


def test_a_search_that_fails_sends_nothing(draft, enabled):
    enabled.before = lambda method, path: (500, {}, {"message": "oops"}) if "page=" in path else None
    assert submit_bug_report(draft.draft_id, draft.plan_hash).state == "not_sent" and enabled.posts == 0


def test_a_short_pause_is_kept_and_a_long_one_is_handed_on_and_remembered(draft, enabled):
    refused = iter([(403, {"Retry-After": "1"}, {"message": "secondary rate limit"})])
    enabled.before = lambda method, path: next(refused, None) if method == "POST" else None
    begun = time.monotonic()
    assert submit_bug_report(draft.draft_id, draft.plan_hash).state == "sent"
    assert time.monotonic() - begun >= 1 and len(enabled.issues) == 1


def test_a_rate_limit_is_honoured(draft, enabled):
    reset = str(int(time.time()) + 900)
    headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset}
    enabled.before = lambda method, path: (403, headers, {"message": "API rate limit exceeded"})
    for _ in range(2):
        sent = submit_bug_report(draft.draft_id, draft.plan_hash)
        assert sent.state == "not_sent" and 800 < sent.retry_after_seconds <= 900
    assert len(enabled.requests) == 1, "the pause holds for the next call too"


def test_after_two_failures_the_server_is_left_alone(draft, enabled):
    enabled.before = lambda method, path: (500, {}, {"message": "oops"})
    for _ in range(2):
        assert submit_bug_report(draft.draft_id, draft.plan_hash).state == "not_sent"
    count = len(enabled.requests)
    sent = submit_bug_report(draft.draft_id, draft.plan_hash)
    assert sent.state == "not_sent" and "2 attempts failed" in sent.reason and len(enabled.requests) == count


def test_a_classic_token_that_can_do_everything_is_refused(draft, enabled):
    enabled.scopes = "gist, repo"
    with pytest.raises(MachineError, match="classic"):
        submit_bug_report(draft.draft_id, draft.plan_hash)
    enabled.scopes = ""
    assert submit_bug_report(draft.draft_id, draft.plan_hash).state == "sent"


@pytest.mark.parametrize(("token", "what"), [("", "no token"), ("wrong", "not valid")])
def test_a_token_that_is_missing_or_wrong_is_named(draft, enabled, monkeypatch, token, what):
    monkeypatch.setenv("GITHUB_TOKEN", token)
    with pytest.raises(MachineError, match=what):
        submit_bug_report(draft.draft_id, draft.plan_hash)
    assert enabled.posts == 0


def test_without_a_network_the_file_and_the_link_are_left(draft, enabled):
    enabled.close()
    sent = submit_bug_report(draft.draft_id, draft.plan_hash)
    assert sent.state == "not_sent" and sent.link and Path(sent.path).is_file()


def _another(failed_run, number: int):
    path = str(ROOT / f"oxrl_core/train/{MODULES[number % 10]}.py")
    return draft_bug_report(failed_run(frames=((path, f"function_{number // 10}"),)).run_id)


def test_three_a_day_and_no_more(failed_run, enabled):
    states = [
        submit_bug_report(one.draft_id, one.plan_hash).state for one in (_another(failed_run, n) for n in range(5))
    ]
    assert states == ["sent"] * 3 + ["not_sent"] * 2 and len(enabled.issues) == 3


def test_an_answer_that_was_lost_is_searched_for_before_anything_is_sent_again(draft, enabled, monkeypatch):
    monkeypatch.setattr(ledger, "SETTLE_SECONDS", 0.3)
    monkeypatch.setattr(tracker, "TIMEOUT_SECONDS", 1)
    enabled.after_post = lambda: time.sleep(1.5)
    first = submit_bug_report(draft.draft_id, draft.plan_hash)
    assert first.state == "not_sent" and len(enabled.issues) == 1
    time.sleep(0.6)
    second = submit_bug_report(draft.draft_id, draft.plan_hash)
    assert (second.state, len(enabled.issues), enabled.posts) == ("duplicate", 1, 1)


SENDER = """
import os, sys, time
import github, oxrl_core.config.yaml_text
from swarm.bug_report import ledger, submit_bug_report
ledger.SETTLE_SECONDS = 0.2
children = []
for plan in sys.argv[1:]:
    child = os.fork()
    if child:
        children.append(child)
        continue
    for line in open(plan):
        for attempt in range(50):
            if submit_bug_report(*line.split()).state != "not_sent":
                break
            time.sleep(0.1)
    os._exit(0)
print(*(os.waitpid(child, 0)[1] for child in children))
"""


def test_ten_processes_that_are_killed_send_each_of_twenty_failures_once(
    failed_run, enabled, oxrl_home_of_the_test, tmp_path
):
    path = oxrl_home_of_the_test / "report.yaml"
    path.write_text(path.read_text().replace("max_per_day: 3", "max_per_day: 500"))
    drafts = [_another(failed_run, number) for number in range(20)]
    assert len({one.fingerprint for one in drafts}) == 20
    plans = []
    for number in range(10):
        plans.append(str(tmp_path / f"plan-{number}"))
        turned = drafts[2 * number :] + drafts[: 2 * number]
        Path(plans[-1]).write_text("".join(f"{one.draft_id} {one.plan_hash}\n" for one in turned))
    kills = 0

    def kill_whoever_sends() -> None:
        """Between the request and the ledger: every third issue costs its sender's life."""
        nonlocal kills
        if len(enabled.issues) % 3 == 0 and kills < 6:
            kills += 1
            (talking,) = [child for child in psutil.Process(senders.pid).children() if _talks(child)]
            os.kill(talking.pid, signal.SIGKILL)

    enabled.after_post = kill_whoever_sends
    senders = subprocess.Popen([sys.executable, "-c", SENDER, *plans], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    statuses = senders.communicate(timeout=150)[0].split()
    assert statuses.count(str(int(signal.SIGKILL))) == kills == 6 and statuses.count("0") == 4
    bodies = [issue["body"].split("\n")[0] for issue in enabled.issues]
    assert sorted(bodies) == sorted(f"<!-- fp:{one.fingerprint} -->" for one in drafts)
    sent = [row for row in read_lines(oxrl_home_of_the_test / "reports/ledger.jsonl") if row["event"] == "intent"]
    assert len(sent) == 20


def _talks(process: psutil.Process) -> bool:
    """Whether it has a connection to the server: only who holds the lock has."""
    return any(one.status == psutil.CONN_ESTABLISHED for one in process.net_connections(kind="tcp4"))
