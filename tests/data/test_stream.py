"""The stream of rows: every row once an epoch, and the same rows after a resume at any point."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxrl_core.data.stream import RenderedStream, RowStream, rendered
from oxrl_core.errors import DataError
from oxrl_core.types import Progress, Row


def rows_of(source: int, count: int) -> list[Row]:
    return [{"id": f"{source}/{index}"} for index in range(count)]


def stream_of(progress: Progress, *counts: int, seed: int = 0) -> RowStream:
    rows = [rows_of(source, count) for source, count in enumerate(counts)]
    return RowStream(rows, [1.0 + source for source in range(len(counts))], seed, True, progress)


def ids(rows: list[Row]) -> list[str]:
    return [row["id"] for row in rows]


def test_an_epoch_has_every_row_once_and_the_next_one_another_order() -> None:
    progress = Progress()
    stream = stream_of(progress, 10)
    first, second = ids(stream.take(10)), ids(stream.take(10))
    assert sorted(first) == sorted(second) == sorted(f"0/{index}" for index in range(10))
    assert first != second
    assert (progress.epoch, progress.row_cursor, stream.rows_per_epoch) == (2, 0, 10)


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=3),
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.data(),
)
def test_a_resume_at_any_point_goes_on_with_the_same_rows(
    counts: list[int], takes: list[int], data: st.DataObject
) -> None:
    progress = Progress()
    stream = stream_of(progress, *counts, seed=4)
    stop = data.draw(st.integers(0, len(takes) - 1))
    saved = replace(progress)
    whole: list[list[str]] = []
    for number, count in enumerate(takes):
        if number == stop:
            saved = replace(progress)
        whole.append(ids(stream.take(count)))
    resumed = stream_of(saved, *counts, seed=4)
    assert [ids(resumed.take(count)) for count in takes[stop:]] == whole[stop:]
    assert saved == progress


@given(st.lists(st.integers(1, 7), min_size=1, max_size=10))
def test_how_many_rows_are_taken_at_a_time_changes_nothing(takes: list[int]) -> None:
    one_by_one, in_takes = stream_of(Progress(), 5, 8), stream_of(Progress(), 5, 8)
    taken = [row for count in takes for row in ids(in_takes.take(count))]
    assert taken == [ids(one_by_one.take(1))[0] for _ in taken]


def test_an_empty_dataset_is_refused() -> None:
    with pytest.raises(DataError, match="no rows"):
        stream_of(Progress(), 3, 0)


def test_rows_that_do_not_fit_are_skipped_and_counted() -> None:
    progress = Progress()
    stream = RenderedStream(stream_of(progress, 6), lambda row: None if row["id"] in ("0/1", "0/4") else row["id"])
    assert sorted(stream.take(4)) == ["0/0", "0/2", "0/3", "0/5"]
    stream.take(4)
    assert stream.num_dropped in (3, 4)  # the second epoch may end with one that nobody asked for
    assert stream.rows_per_epoch == 6


def test_a_dataset_of_rows_that_never_fit_ends_with_the_reason() -> None:
    with pytest.raises(DataError, match="all rows are too long") as caught:
        RenderedStream(stream_of(Progress(), 3), lambda row: None).take(1)
    assert "max_prompt_tokens" in caught.value.next_step


# Rows that become several items: the windows of a text


def windows_of(row: Row) -> list[str] | None:
    """As many items as the row's number says, modulo 4: none of some rows."""
    count = int(row["id"].split("/")[1]) % 4
    return [f"{row['id']}#{number}" for number in range(count)] or None


def test_a_step_that_ends_within_a_row_goes_on_with_the_rest_of_it() -> None:
    progress = Progress()
    stream = RenderedStream(RowStream([rows_of(0, 4)], [1.0], 0, False, progress), windows_of)
    assert stream.take(2) == ["0/1#0", "0/2#0"]
    assert (progress.row_cursor, progress.item_cursor) == (2, 1)
    assert stream.take(3) == ["0/2#1", "0/3#0", "0/3#1"]
    assert stream.take(1) == ["0/3#2"]
    assert (progress.epoch, progress.row_cursor, progress.item_cursor) == (1, 0, 0)
    assert stream.num_dropped == 1
    assert stream.count_items() == 6
    assert (progress.epoch, progress.row_cursor) == (1, 0)  # counting moves nothing


@given(st.integers(2, 12), st.lists(st.integers(1, 9), min_size=1, max_size=12), st.data())
def test_no_item_is_lost_or_repeated_by_a_resume_within_a_row(
    num_rows: int, takes: list[int], data: st.DataObject
) -> None:
    progress = Progress()
    stream = RenderedStream(stream_of(progress, num_rows, seed=3), windows_of)
    stop = data.draw(st.integers(0, len(takes) - 1))
    saved, whole = replace(progress), []
    for number, count in enumerate(takes):
        if number == stop:
            saved = replace(progress)
        whole.append(stream.take(count))
    resumed = RenderedStream(stream_of(saved, num_rows, seed=3), windows_of)
    assert [resumed.take(count) for count in takes[stop:]] == whole[stop:]
    assert saved == progress
    # From the start, the items are those of the rows one after another.
    flat = [item for part in whole for item in part]
    assert flat == rendered(stream_of(Progress(), num_rows, seed=3).take(num_rows * 120), windows_of)[: len(flat)]


def test_a_row_is_rendered_once_however_many_steps_it_feeds() -> None:
    seen: list[str] = []

    def render(row: Row) -> list[int]:
        seen.append(row["id"])
        return list(range(10))

    stream = RenderedStream(RowStream([rows_of(0, 2)], [1.0], 0, False, Progress()), render)
    for _ in range(10):
        stream.take(1)
    assert seen == ["0/0"]


def test_all_that_rows_become() -> None:
    assert rendered(rows_of(0, 4), windows_of) == ["0/1#0", "0/2#0", "0/2#1", "0/3#0", "0/3#1", "0/3#2"]
    assert rendered(rows_of(0, 3), lambda row: None if row["id"] == "0/1" else row["id"]) == ["0/0", "0/2"]
