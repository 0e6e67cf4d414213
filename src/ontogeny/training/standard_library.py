"""The text every Python has at hand: its standard library's documentation, and its code without it."""

import ast
import functools
import importlib
import inspect
import re
import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

from ontogeny.canonical import digest

# fmt: off
# Not in every installation (Debian packages several of them apart, 3.12 and 3.13 dropped others), or tables.
LEFT_OUT = frozenset({
    "test", "tests", "idlelib", "tkinter", "turtle", "turtledemo", "ensurepip", "venv", "distutils", "lib2to3",
    "msilib", "encodings", "pydoc_data",
})
# Compiled modules of every CPython; sys is not among them, because programs replace its hooks.
COMPILED = (
    "builtins", "time", "math", "cmath", "itertools", "_functools", "_collections", "_io", "_datetime", "_struct",
    "_socket", "array", "_operator", "_pickle", "signal", "select", "unicodedata", "_random", "_thread",
    "_asyncio", "_codecs", "_csv", "_json", "_bisect", "_heapq", "_weakref", "_imp", "marshal", "gc", "_contextvars",
)
# fmt: on


def prose() -> Iterator[str]:
    """Documentation strings and comments, one document a module; then the help on topics; then compiled modules."""
    from pydoc_data.topics import topics

    yield from (_separated(path)[0] for path in _files())
    yield from (topics[name] for name in sorted(topics))
    yield from (_compiled_documentation(name) for name in COMPILED)


def code() -> Iterator[str]:
    """The same modules without their documentation strings and comments."""
    return (_separated(path)[1] for path in _files())


@functools.cache
def _files() -> tuple[Path, ...]:
    """Every pure Python module, in the order of their paths."""
    library = Path(sysconfig.get_path("stdlib"))
    return tuple(
        path
        for name in sorted(sys.stdlib_module_names - LEFT_OUT)
        for path in (library / f"{name}.py", *sorted((library / name).rglob("*.py")))
        if path.is_file() and LEFT_OUT.isdisjoint(path.relative_to(library).parts)
    )


def fingerprint() -> str:
    """64 hex digits of this Python's version and of its modules' paths, sizes and times: as long as they stand, so
    does the text."""
    stats = ((str(path), path.stat()) for path in _files())
    return digest([sys.version, [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]])


@functools.cache
def _separated(path: Path) -> tuple[str, str]:
    """(prose, code) of one module; read when it is asked for, since few runs take the whole library."""
    return separate(_source(path))


def _source(path: Path) -> str:
    with tokenize.open(path) as file:
        return file.read()


def _compiled_documentation(name: str) -> str:
    """The documentation strings of a compiled module's functions, classes and their members."""
    module = importlib.import_module(name)
    owners = [module, *(value for _, value in sorted(vars(module).items()) if inspect.isclass(value))]
    members = [value for owner in owners for key, value in sorted(vars(owner).items()) if not key.startswith("__")]
    documented = (v for v in members if inspect.isclass(v) or inspect.isroutine(v) or inspect.isdatadescriptor(v))
    texts = (inspect.cleandoc(v.__doc__) for v in documented if isinstance(v.__doc__, str))
    return "\n\n".join(dict.fromkeys(texts))


def separate(source: str) -> tuple[str, str]:
    """Python source as (its documentation strings and comments, the same code without them).

    A documentation string that is a whole body becomes ``pass``, so the code still compiles to the same program.
    """
    raw = source.encode()  # the parser counts bytes
    prose, code = "", b""
    position = last = 0
    for start, end, text, stand_in in sorted([*_docstrings(source, raw), *_comments(raw)]):
        if any(map(str.isalpha, text)):
            gap = raw[last:start]
            prose += ("\n" if gap.isspace() and gap.count(b"\n") == 1 else "\n\n" if prose else "") + text
            last = end
        line = raw.rfind(b"\n", 0, start) + 1
        whole_line = not raw[line:start].strip() and raw[end : end + 1] == b"\n" and not stand_in
        kept = raw[position : line if whole_line else start]
        code += kept + stand_in if stand_in else kept.rstrip(b" \t")
        position = end + whole_line
    return prose, (code + raw[position:]).decode()


Passage = tuple[int, int, str, bytes]  # first byte, end, its text, what has to stand in its place


def _docstrings(source: str, raw: bytes) -> Iterator[Passage]:
    lines = [0, *(match.end() for match in re.finditer(rb"\n", raw))]
    for body in _bodies(ast.parse(source)):
        first = body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            start = lines[first.lineno - 1] + first.col_offset
            end = lines[(first.end_lineno or 0) - 1] + (first.end_col_offset or 0)
            yield start, end, inspect.cleandoc(first.value.value), b"pass" if len(body) == 1 else b""


def _bodies(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """The bodies of a module and of its classes and functions; looks not into expressions, for speed."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
        yield node.body
    for block in ("body", "orelse", "handlers", "finalbody", "cases"):
        inner = getattr(node, block, None)
        for child in inner if isinstance(inner, list) else ():
            yield from _bodies(child)


# Strings are matched to step over a # in them. Ten times as fast as tokenize before Python 3.12.
STRING_OR_COMMENT = re.compile(
    rb"""(?s:'''(?:[^\\]|\\.)*?'''|\"""(?:[^\\]|\\.)*?\"""|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")|(?P<comment>#[^\n]*)"""
)


def _comments(raw: bytes) -> Iterator[Passage]:
    for match in STRING_OR_COMMENT.finditer(raw):
        if match["comment"]:
            yield *match.span(), match["comment"].decode().lstrip("#!:").removeprefix(" ").rstrip(), b""
