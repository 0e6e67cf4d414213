"""What each promise measured goes from its test into the table of docs/reliability.md: no figure there is typed."""

import os
import platform
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from threadpoolctl import threadpool_limits

torch.set_num_threads(1)
threadpool_limits(1)
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # for the server that children are forked from
BLOCK = re.compile(r"(<!-- soak -->\n)(.*?)(<!-- soak end -->)", re.DOTALL)
ROW = re.compile(r"^\| .* \| `(.*)` \| \d+ s \|\n", re.MULTILINE)
found: list[tuple[str, str, str, float]] = []  # promise, figure, test, seconds

Figure = Callable[[str, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--figures", type=Path, help="the Markdown page whose soak block is filled with what is measured")


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Figure:
    """Record a promise of the table, and what this test measured of it."""
    return lambda promise, measured: record_property(promise, measured)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        measured = report.user_properties or [(report.nodeid, "")]
        for promise, text in measured:
            shown = str(text) if report.passed else f"**{report.outcome}** {text}"
            found.append((promise, shown, report.nodeid.split("[")[0], report.duration))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for promise, shown, test, seconds in found:
        terminalreporter.line(f"{promise}: {shown} ({test}, {seconds:.0f} s)")
    path: Path | None = config.getoption("--figures")
    if path and found:
        page = path.read_text(encoding="utf-8")
        path.write_text(BLOCK.sub(lambda block: block[1] + _table(block[2]) + block[3], page), encoding="utf-8")


def _table(before: str) -> str:
    """What was found now; what stood there of tests that did not run now stays."""
    ran = {test for _, _, test, _ in found}
    rows = [row[0] for row in ROW.finditer(before) if row[1] not in ran]
    rows += [f"| {promise} | {shown} | `{test}` | {seconds:.0f} s |\n" for promise, shown, test, seconds in found]
    packages = ", ".join(f"{name} {version(name)}" for name in ("ontogeny", "torch", "safetensors", "transformers"))
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()} {platform.release()}"
    when = f"Measured on {datetime.now(UTC):%Y-%m-%d} on {machine}; Python {platform.python_version()}, {packages}.\n\n"
    return f"{when}| promise | figure | test | took |\n| --- | --- | --- | --- |\n{''.join(sorted(rows))}"
