"""What reads a page of the report."""

import csv
import html
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from ontogeny.lab.report.figures import Drawing


@contextmanager
def sketches() -> Iterator[None]:
    """Figures are drawn, but not rendered, which is most of a report's time: for tests of what is around them."""

    def rendered(drawing: Drawing) -> tuple[str, bytes]:
        drawing.draw()
        return f'<svg role="img" aria-label="{html.escape(drawing.alt)}"></svg>', b"\x89PNG"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Drawing, "_rendered", property(rendered))
        yield


class Page(HTMLParser):
    """Tags with their attributes, in order, and all text."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def links(self) -> list[str]:
        """Where its links go."""
        return [unquote(attributes["href"] or "") for tag, attributes in self.tags if tag == "a"]

    @property
    def ids(self) -> list[str]:
        """Every id, in order."""
        return [attributes["id"] or "" for _, attributes in self.tags if "id" in attributes]


def check_stands_alone(out: Path) -> None:
    """Nothing is fetched, no id is there twice, every link and figure is what it says."""
    text = out.read_text()
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for key in ("src", "href", "xlink:href", "srcset", "action"):
            target = attributes.get(key) or "#"
            assert ":" not in target, target
            assert not target.startswith("/"), target
    assert "url(" not in text.replace("url(#", "")
    assert "@import" not in text
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        assert link[1:] in page.ids if link.startswith("#") else (out.parent / link).exists(), link
    drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert all(a.get("role") == "img" and len(a.get("aria-label") or "") > 40 for a in drawings)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags


def table_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def csv_of(paths: list[Path], ending: str) -> list[dict[str, str]]:
    return table_rows(next(path for path in paths if path.name.endswith(ending)))
