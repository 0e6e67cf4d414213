"""A report of a store from a stranger: what names, texts and errors hold is text, and leads nowhere."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from reported import Page, check_stands_alone

from ontogeny.benchmarks.made_up import conduct, declared
from ontogeny.errors import InputError
from ontogeny.files import read_json, write_json
from ontogeny.lab.experiment import from_json
from ontogeny.lab.findings import store_findings
from ontogeny.lab.report.page import write_report
from ontogeny.lab.report.sections import read_sections
from ontogeny.lab.store import open_store

EVIL = "<img src=x onerror=alert(1)>\"'&amp;</td></svg></style><script>alert(2)</script> $x$ {{7*7}}"


def poisoned(value: Any, *keys: str) -> Any:
    """The same with EVIL after every text under these keys, and as a key beside them."""
    if isinstance(value, Mapping):
        return {key: poisoned(entry, *keys) if key not in keys else spoilt(entry) for key, entry in value.items()}
    return [poisoned(entry, *keys) for entry in value] if isinstance(value, list | tuple) else value


def spoilt(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: spoilt(entry) for key, entry in value.items()} | {EVIL: EVIL}
    return value + EVIL if isinstance(value, str) else value


def test_what_a_store_says_is_text(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    plain = asdict(declared("demo", donors=2))
    evil = poisoned(plain, "title", "description", "question", "rules", "not_applicable", "source", "revision")
    experiment = from_json(evil | {"text": spoilt(plain["text"]), "scale": "demo", "table": "primary"})
    conduct(experiment, store)
    for path in store.root.rglob("result.json"):
        write_json(path, poisoned(read_json(path), "host", "stop_reason", "reason"))
    paths = write_report(store, tmp_path / "out" / "r.html")
    check_stands_alone(tmp_path / "out" / "r.html")
    html = (tmp_path / "out" / "r.html").read_text()
    assert "{{7*7}}" in Page(html).text
    for path in paths:
        if path.suffix in (".html", ".svg"):
            assert not {"img", "script"} & {tag for tag, _ in Page(path.read_text()).tags}, path
            assert not [name for _, values in Page(path.read_text()).tags for name in values if name.startswith("on")]
    assert {path.name for path in tmp_path.iterdir()} == {"store", "out"}


@pytest.mark.parametrize("key", ["name", "scale"])
@pytest.mark.parametrize("value", ["../../up", "/etc/cron.d/x", EVIL, "", None, ["x"], "x" * 300])
def test_names_lead_to_no_other_folder(key: str, value: Any, tmp_path: Path) -> None:
    store = open_store(tmp_path)
    write_json(store.root / "experiments" / "x.json", asdict(declared("demo", donors=2)) | {key: value})
    for use in (read_sections, store_findings):
        with pytest.raises(InputError, match="a declaration of"):
            use(store)
