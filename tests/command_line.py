"""The command line in this process: what it prints and how it ends."""

import contextlib
import io
import sys
from typing import Any, NamedTuple
from unittest.mock import patch

from ontogeny.cli import main


class Answer(NamedTuple):
    status: int
    out: str
    error: str


def command(*arguments: object) -> Answer:
    """``ontogeny ARGUMENTS``."""
    out, error, status = io.StringIO(), io.StringIO(), 0
    with (
        patch.object(sys, "argv", ["ontogeny", *map(str, arguments)]),
        patch("signal.signal"),  # this process's handlers stay its own
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
    ):
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
    return Answer(status, out.getvalue(), error.getvalue())


def refused(*arguments: object) -> str:
    """Expect exit status 2 and one line on standard error, without a step trained; returns the line."""

    def never(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a mistake was found only in training")

    with patch("ontogeny.training.train.make_optimizer", never):
        answer = command(*arguments)
    assert answer.status == 2, answer
    assert answer.error.startswith("ontogeny: ")
    assert answer.error.endswith("\n")
    assert answer.error.count("\n") == 1, answer.error
    return answer.error
