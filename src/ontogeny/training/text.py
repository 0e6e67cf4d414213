"""Text: where it comes from, how it is split, and the tokens made of it once and then memory-mapped."""

import ast
import functools
import hashlib
import importlib
import inspect
import io
import json
import os
import re
import sys
import sysconfig
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ontogeny.canonical import digest
from ontogeny.errors import InputError

Split = Literal["train", "tune", "test"]
SPLITS: tuple[Split, ...] = ("train", "tune", "test")
END_OF_TEXT = "<|endoftext|>"
DOCUMENT_CHARACTERS = 20_000  # a plain text file is cut into documents of about this length
TOKENIZER_CHARACTERS = 4_000_000  # of the train split, from which byte pairs are learnt
BATCH_CHARACTERS = 1_000_000  # tokenised at a time
FIELDS = ("text", "content")

# Not in every installation (Debian packages several of them apart, 3.12 and 3.13 dropped others), or tables.
LEFT_OUT = frozenset(
    "test tests idlelib tkinter turtle turtledemo ensurepip venv distutils lib2to3 msilib encodings pydoc_data".split()
)
# Compiled modules of every CPython; sys is not among them, because programs replace its hooks.
COMPILED = (
    "builtins time math cmath itertools _functools _collections _io _datetime _struct _socket array _operator "
    "_pickle signal select unicodedata _random _thread _asyncio _codecs _csv _json _bisect _heapq _weakref _imp "
    "marshal gc _contextvars"
).split()


@dataclass(frozen=True)
class Corpus:
    """Documents in a fixed order, and the sha256 over them (64 hex digits)."""

    source: str
    documents: tuple[str, ...]
    digest: str


def read_corpus(sources: Sequence[str], *, max_characters: int | None = None) -> Corpus:
    """The documents of the sources, one source after the other; blank documents are dropped.

    A source is ``stdlib:prose``, ``stdlib:code``, a .txt, .jsonl or .parquet file, a folder of them (recursive,
    sorted) or a hub data set id. At most ``max_characters`` are taken of each source, its last document cut.
    Raises InputError for an unknown, missing, undecodable or empty source.
    """
    documents: list[str] = []
    for source in sources:
        found = [text for text in _limited(_documents(source, max_characters), max_characters) if text.strip()]
        if not found:
            raise InputError(f"text {source}: expected at least one document that is not blank, found none")
        documents += found
    if not documents:
        raise InputError("text: expected at least one source, found none; give --text SOURCE")
    hashed = hashlib.sha256()
    for document in documents:
        try:
            hashed.update(hashlib.sha256(document.encode()).digest())
        except UnicodeEncodeError as error:
            raise InputError(f"text {', '.join(sources)}: not valid Unicode, {error}; remove that document") from error
    return Corpus(", ".join(sources), tuple(documents), hashed.hexdigest())


def _limited(documents: Iterable[str], max_characters: int | None) -> Iterator[str]:
    left = sys.maxsize if max_characters is None else max_characters
    for document in documents:
        yield document[:left]
        left -= len(document)
        if left <= 0:
            return


def _documents(source: str, max_characters: int | None) -> Iterable[str]:
    if source in EMBEDDED:
        return EMBEDDED[source]()
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in READERS and file.is_file())
        return (document for file in files for document in READERS[file.suffix](file))
    if path.suffix in READERS:
        if not path.is_file():
            raise InputError(f"text {source}: no such file")
        return READERS[path.suffix](path)
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source) and not path.exists():
        return _hub(source, max_characters)
    raise InputError(
        f"text {source}: expected {', '.join(EMBEDDED)}, a {', '.join(READERS)} file, an existing folder of them "
        "or a hub data set id (owner/name)"
    )


# Embedded: the standard library of the running Python ---------------------------------------------------------


def _stdlib_prose() -> Iterator[str]:
    from pydoc_data.topics import topics

    yield from (prose for prose, _ in _stdlib())
    yield from (topics[name] for name in sorted(topics))
    yield from (_compiled_documentation(name) for name in COMPILED)


def _stdlib_code() -> Iterator[str]:
    return (code for _, code in _stdlib())


@functools.cache
def _stdlib() -> tuple[tuple[str, str], ...]:
    """(prose, code) of every pure Python module, in the order of their paths."""
    library = Path(sysconfig.get_path("stdlib"))
    files = (
        path
        for name in sorted(sys.stdlib_module_names - LEFT_OUT)
        for path in (library / f"{name}.py", *sorted((library / name).rglob("*.py")))
        if path.is_file() and LEFT_OUT.isdisjoint(path.relative_to(library).parts)
    )
    return tuple(separate(_source(path)) for path in files)


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

    Any statement that is only a string counts as documentation. One that is a whole body becomes ``pass``, so
    that the code still compiles to the same, less its documentation.
    """
    offsets = [0]
    for line in io.StringIO(source):
        offsets.append(offsets[-1] + len(line))
    prose: list[str] = []
    code: list[str] = []
    position, last_row = 0, -1
    for token, replacement in _documentation(source):
        text = _comment(token.string) if token.type == tokenize.COMMENT else _string(token.string)
        if any(map(str.isalpha, text)):
            prose += ["\n" if token.type == tokenize.COMMENT and token.start[0] == last_row + 1 else "\n\n", text]
            last_row = token.end[0]
        start, end = (offsets[row - 1] + column for row, column in (token.start, token.end))
        kept = source[position:start]
        whole_lines = not kept.rpartition("\n")[2].strip() and source[end : end + 1] == "\n" and not replacement
        code += [kept.rstrip(" \t"), replacement and kept[len(kept.rstrip(" \t")) :] + replacement]
        position = end + whole_lines
    return "".join(prose[1:]), "".join([*code, source[position:]])


def _documentation(source: str) -> Iterator[tuple[tokenize.TokenInfo, str]]:
    """Every comment and every statement that is only a string, with what has to stand in its place."""
    layout = (tokenize.COMMENT, tokenize.NL)
    opening = (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    significant = [token for token in tokens if token.type not in layout]
    found = [(token, "") for token in tokens if token.type == tokenize.COMMENT]
    for index, token in enumerate(significant[:-2]):
        if token.type == tokenize.STRING and significant[index + 1].type == tokenize.NEWLINE:
            before = significant[index - 1].type if index else tokenize.NEWLINE
            if before in opening:
                alone = before == tokenize.INDENT and significant[index + 2].type == tokenize.DEDENT
                found.append((token, "pass" if alone else ""))
    return iter(sorted(found, key=lambda item: item[0].start))


def _comment(text: str) -> str:
    return text.lstrip("#!:").removeprefix(" ").rstrip()


def _string(text: str) -> str:
    value = ast.literal_eval(text)
    return inspect.cleandoc(value) if isinstance(value, str) else ""


# Files and the hub --------------------------------------------------------------------------------------------


def _text_file(path: Path) -> Iterator[str]:
    """Contiguous documents of about 20,000 characters that end where a paragraph does."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"text {path}: expected UTF-8, found bytes that are not ({error}); convert the file") from error
    paragraph_end = "\n\n" if "\n\n" in text else "\n"
    start = 0
    while start < len(text):
        found = text.find(paragraph_end, start + DOCUMENT_CHARACTERS)
        end = len(text) if found < 0 else found + len(paragraph_end)
        yield text[start:end]
        start = end


def _field(names: Iterable[str], where: str) -> str:
    found = next((field for field in FIELDS if field in names), None)
    if found is None:
        raise InputError(f"{where}: expected a field {' or '.join(FIELDS)}, found {', '.join(names) or 'none'}")
    return found


def _value(row: Any, where: str) -> str:
    value = row[_field(row, where)] if isinstance(row, Mapping) else row
    if not isinstance(value, str):
        raise InputError(f"{where}: expected a record whose text is a string, found {type(value).__name__}")
    return value


def _jsonl_file(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"text {path}, line {number}"
            try:
                row = json.loads(line) if line.strip() else {FIELDS[0]: ""}
            except ValueError as error:  # JSON and UTF-8 errors alike
                raise InputError(f"{where}: expected one JSON object in UTF-8, found {error}") from error
            yield _value(row if isinstance(row, Mapping) else [row], where)


def _parquet_file(path: Path) -> Iterator[str]:
    parquet = _extra("pyarrow.parquet", str(path))
    try:
        file = parquet.ParquetFile(path)
    except ValueError as error:  # pyarrow's ArrowInvalid is one
        raise InputError(f"text {path}: expected a parquet file, found {error}") from error
    column = _field(file.schema_arrow.names, f"text {path}")
    for batch in file.iter_batches(columns=[column]):
        yield from (_value(value, f"text {path}, column {column}") for value in batch.column(0).to_pylist())


def _hub(source: str, max_characters: int | None) -> Iterator[str]:
    if max_characters is None:
        raise InputError(f"text {source}: a hub data set is streamed, so say how much of it: max_characters")
    datasets = _extra("datasets", source)
    try:
        for row in datasets.load_dataset(source, split="train", streaming=True):
            yield _value(row, f"text {source}")
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = str(error).partition("\n")[0]
        raise InputError(f"text {source}: no such file, and not readable as a hub data set: {reason}") from error


def _extra(module: str, source: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"text {source}: needs {module}; pip install 'ontogeny[data]'") from error


EMBEDDED: dict[str, Callable[[], Iterable[str]]] = {"stdlib:prose": _stdlib_prose, "stdlib:code": _stdlib_code}
READERS: dict[str, Callable[[Path], Iterable[str]]] = {
    ".txt": _text_file,
    ".jsonl": _jsonl_file,
    ".parquet": _parquet_file,
}


# Splits and tokenizers ----------------------------------------------------------------------------------------


def split(document: str) -> Split:
    """The split of a document, by its hash: 90 % train, 5 % tune, 5 % test. Copies fall into the same one."""
    share = int.from_bytes(hashlib.sha256(document.encode()).digest()[:8], "big") % 20
    return "train" if share < 18 else "tune" if share == 18 else "test"


def train_tokenizer(corpus: Corpus, vocabulary: int) -> Tokenizer:
    """Byte-level BPE learnt on the train split's first four million characters; ``<|endoftext|>`` is id 0.

    A corpus too small for so many pairs gives a smaller vocabulary. Raises InputError if there is no room for
    the single bytes, or nothing to learn from.
    """
    # These 13 bytes occur in no UTF-8 text; their symbols are themselves (GPT-2's byte map).
    never = {chr(byte) for byte in (0xC0, 0xC1, *range(0xF5, 0x100))}
    alphabet = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - never)
    if vocabulary <= len(alphabet):
        raise InputError(f"vocabulary: expected at least {len(alphabet) + 1} (bytes and end of text), not {vocabulary}")
    documents = [document for document in corpus.documents if split(document) == "train"]
    if not documents:
        raise InputError(f"text {corpus.source}: no document fell into the train split; give more text")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_limited(documents, TOKENIZER_CHARACTERS), trainer)
    return tokenizer


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a checkpoint's tokenizer.json, without truncation or padding; runs no code of its own.

    Raises InputError if the file is missing or no tokenizer.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected the tokenizer of a checkpoint in the tokenizers format")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise InputError(f"{path}: expected a tokenizer in the tokenizers format, found {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def end_token(tokenizer: Tokenizer, directory: Path | None) -> int | None:
    """The id of the token that ends a document, or None if there is none.

    For a tokenizer of ours (no directory) that is ``<|endoftext|>``; for a checkpoint's the declared end of
    sequence, else its beginning, from tokenizer_config.json (a token), else config.json (an id).
    Raises InputError if one of these files is not JSON.
    """
    if directory is None:
        found: int | None = tokenizer.token_to_id(END_OF_TEXT)
        return found
    names, ids = (_json_file(directory / name) for name in ("tokenizer_config.json", "config.json"))
    for role in ("eos", "bos"):
        token = names.get(f"{role}_token")
        text = token.get("content") if isinstance(token, Mapping) else token
        found = tokenizer.token_to_id(text) if isinstance(text, str) else None
        if found is None:
            listed = ids.get(f"{role}_token_id")
            found = listed[0] if isinstance(listed, list) and listed else listed
        if isinstance(found, int):
            return found
    return None


def _json_file(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        raise InputError(f"{path}: expected JSON, found {error}") from error
    return value if isinstance(value, dict) else {}


# Tokens -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Tokens:
    """The token ids of each split (1-D, uint16 or uint32, memory-mapped, read-only), their number of kinds, and
    the id of corpus × tokenizer × end token, which names the file."""

    train: NDArray[np.integer]
    tune: NDArray[np.integer]
    test: NDArray[np.integer]
    vocabulary: int
    digest: str


def tokenise(corpus: Corpus, tokenizer: Tokenizer, end_token: int | None, directory: Path) -> Tokens:
    """The corpus as token ids, made once into ``directory/<id>.bin`` (with ``<id>.json``) and then only mapped.

    Each document is followed by ``end_token`` (if any); no other special token is added. Written under a
    temporary name and renamed, the .json last; a file of the wrong size is made anew.
    """
    size = max(tokenizer.get_vocab().values()) + 1  # ids may have gaps
    dtype = np.dtype(np.uint16 if size <= 1 << 16 else np.uint32)
    recipe = {"corpus": corpus.digest, "tokenizer": digest(tokenizer.to_str()), "end_token": end_token}
    identity = digest(recipe)
    tokens = open_tokens(directory, identity)
    if tokens is not None:
        return tokens
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f"{identity}.{os.getpid()}.temporary"
    counts = dict.fromkeys(SPLITS, 0)
    with temporary.open("wb") as file:
        for part in SPLITS:
            for ids in _encoded([text for text in corpus.documents if split(text) == part], tokenizer, end_token):
                file.write(ids.astype(dtype).tobytes())
                counts[part] += len(ids)
        _sync(file)
    os.replace(temporary, directory / f"{identity}.bin")
    described = {**recipe, "source": corpus.source, "dtype": dtype.name, "vocabulary": size, "counts": counts}
    with temporary.open("wb") as file:
        file.write(json.dumps(described, indent=1).encode())
        _sync(file)
    os.replace(temporary, directory / f"{identity}.json")
    tokens = open_tokens(directory, identity)
    if tokens is None:
        raise InputError(f"text {corpus.source}: its documents hold no tokens; give more text")
    return tokens


def open_tokens(directory: Path, identity: str) -> Tokens | None:
    """The tokens made under this id, memory-mapped; None if they are missing, empty or of the wrong size."""
    described = _json_file(directory / f"{identity}.json")
    path = directory / f"{identity}.bin"
    total = sum(described["counts"].values()) if described else 0
    if not total or not path.is_file() or path.stat().st_size != total * np.dtype(described["dtype"]).itemsize:
        return None
    ids = np.memmap(path, dtype=described["dtype"], mode="r")
    train, tune, test = np.split(ids, np.cumsum([described["counts"][part] for part in SPLITS])[:-1])
    return Tokens(train, tune, test, described["vocabulary"], identity)


def _encoded(documents: Sequence[str], tokenizer: Tokenizer, end_token: int | None) -> Iterator[NDArray[np.int64]]:
    """The ids of some documents at a time, so that memory stays bounded."""
    ending = [] if end_token is None else [end_token]
    batch: list[str] = []
    characters = 0
    for index, document in enumerate(documents):
        batch.append(document)
        characters += len(document)
        if characters >= BATCH_CHARACTERS or index == len(documents) - 1:
            for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
                yield np.array(encoding.ids + ending, dtype=np.int64)
            batch, characters = [], 0


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
