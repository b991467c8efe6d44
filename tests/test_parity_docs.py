"""docs/algorithms.md says what the code says, and every loss in it has an oracle or a property that a test shows."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from oxrl_core.algorithms.base import all_algorithms
from oxrl_core.config.schema import AlgorithmConfig
from scripts.algorithms_facts import IDENTITIES, LEFT_OUT
from scripts.parity_docs import LIMIT, PAGE, SMALLEST, SWITCHES, rounded_up, shown

ROOT = Path(__file__).parent.parent
ROWS = json.loads((ROOT / "docs" / "parity.json").read_text(encoding="utf-8"))["rows"]


def test_the_page_is_current_and_needs_no_torch_to_be_checked() -> None:
    program = (
        "import sys; sys.path.insert(0, '.'); from scripts.parity_docs import main; code = main(['--check']);"
        "print({'torch', 'trl', 'numpy'} & {name.split('.')[0] for name in sys.modules}); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "set()"


def test_every_algorithm_has_an_oracle_or_an_identity_that_a_test_shows() -> None:
    compared = {row["algorithm"] for row in ROWS}
    assert compared | set(IDENTITIES) == set(all_algorithms())
    shown_by_tests = {
        node.name
        for path in (ROOT / "tests" / "algorithms").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    assert {test for _, test in IDENTITIES.values()} <= shown_by_tests


def test_no_loss_stands_further_from_its_oracle_than_the_limit() -> None:
    assert len(ROWS) > 60 and sum(row["cases"] for row in ROWS) > 3000
    assert all(SMALLEST <= row[error] <= LIMIT for row in ROWS for error in ("value_error", "gradient_error"))


def test_every_algorithm_and_every_switch_is_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert "{{" not in page
    assert all(f"`{name}`" in page for name in (*all_algorithms(), *SWITCHES))
    assert all(reason for reason in LEFT_OUT.values())
    # A new switch has to be put on the page, or `name`, which is none.
    assert {*SWITCHES, "name"} == set(AlgorithmConfig.model_fields)


def test_links_within_the_page_lead_to_a_heading_and_the_guide_recommends_what_exists() -> None:
    page = PAGE.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", page, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= anchors
    table = page.partition("## Which one\n")[2].partition("\n## ")[0]
    second_column = [line.split("|")[2] for line in table.splitlines() if line.startswith("|")]
    taken = {name for cell in second_column for name in re.findall(r"`(\w+)`", cell)}
    assert len(taken) > 25
    assert taken - {"label_smoothing", "margin"} <= set(all_algorithms())


def test_the_readme_names_every_main_algorithm_and_counts_the_contributed_ones() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    contributed = {name for name, one in all_algorithms().items() if ".contrib." in one.loss.__module__}
    assert all(f"`{name}`" in readme for name in set(all_algorithms()) - contributed)
    for text in (readme, (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")):
        assert f"{len(contributed)} contributed losses" in text


@pytest.mark.parametrize(
    ("error", "rounded", "text"),
    [
        (0.0, 1e-8, "< 1e-8"),
        (3e-15, 1e-8, "< 1e-8"),
        (1.01e-7, 2e-7, "2e-7"),
        (5.96e-8, 6e-8, "6e-8"),
        (9.2e-7, 1e-6, "1e-6"),
    ],
)
def test_an_error_is_rounded_up_to_one_digit(error: float, rounded: float, text: str) -> None:
    assert rounded_up(error) == rounded
    assert shown(rounded) == text
