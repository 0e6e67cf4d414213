"""Text: where it comes from, how it is split, and the tokens made of it once and then memory-mapped."""

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ontogeny.canonical import digest
from ontogeny.errors import InputError, optional
from ontogeny.files import locked, making, read_json, recorded, write_json
from ontogeny.streams import numpy_stream
from ontogeny.training import standard_library

Split = Literal["train", "tune", "test"]
SPLITS: tuple[Split, ...] = ("train", "tune", "test")
END_OF_TEXT = "<|endoftext|>"
DOCUMENT_CHARACTERS = 20_000  # a plain text file is cut into documents of about this length
TOKENIZER_CHARACTERS = 4_000_000  # of the train split, from which byte pairs are learnt
BATCH_CHARACTERS = 1_000_000  # tokenised at a time
FIELDS = ("text", "content")


@dataclass(frozen=True)
class Corpus:
    """Documents in a fixed order, and the sha256 over them (64 hex digits)."""

    source: str
    documents: tuple[str, ...]
    digest: str


def read_corpus(sources: Sequence[str], *, max_characters: int | None = None, keep: Path | None = None) -> Corpus:
    """The documents of the sources, one source after the other; blank documents are dropped.

    A source is ``stdlib:prose``, ``stdlib:code``, a .txt, .jsonl or .parquet file, a folder of them (recursive,
    sorted) or a hub data set id. At most ``max_characters`` are taken of each source, its last document cut. Embedded
    text, which takes a second to separate, is kept in the folder ``keep``.
    Raises InputError for an unknown, missing, undecodable or empty source.
    """
    documents: list[str] = []
    for source in sources:
        found = [text for text in _limited(_documents(source, max_characters, keep), max_characters) if text.strip()]
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


def _documents(source: str, max_characters: int | None, keep: Path | None) -> Iterable[str]:
    if source in EMBEDDED:
        return _kept(source, max_characters, keep) if keep else EMBEDDED[source]()
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


def _kept(source: str, max_characters: int | None, keep: Path) -> list[str]:
    path = keep / f"{digest([source, max_characters, standard_library.fingerprint()])}.documents.json"
    with making(path) as temporary:
        if temporary:
            write_json(temporary, {"documents": list(_limited(EMBEDDED[source](), max_characters))})
    return list(read_json(path)["documents"])


def shuffled(corpus: Corpus) -> Corpus:
    """The corpus with the words of every document in random order, parted by single spaces."""
    documents = []
    for number, document in enumerate(corpus.documents):
        words = document.split()
        order = numpy_stream(0, "shuffled", number).permutation(len(words))
        documents.append(" ".join(words[i] for i in order))
    return Corpus(f"{corpus.source}, words shuffled", tuple(documents), digest([corpus.digest, "shuffled"]))


# Files and the hub --------------------------------------------------------------------------------------------


def _text_file(path: Path) -> Iterator[str]:
    """Contiguous documents of about 20,000 characters that end where a paragraph does."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"text {path}: expected UTF-8, found bytes that are not ({error}); convert the file"
        ) from error
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


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: expected a string, found {type(value).__name__}; leave that record out")
    return value


def _jsonl_file(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"text {path}, line {number}"
            try:
                row = json.loads(line) if line.strip() else {FIELDS[0]: ""}
            except ValueError as error:  # of JSON and of UTF-8 alike
                raise InputError(f"{where}: expected a JSON object in UTF-8, found {error}") from error
            if not isinstance(row, Mapping):
                raise InputError(f"{where}: expected a JSON object, found {type(row).__name__}")
            yield _string(row[_field(row, where)], where)


def _parquet_file(path: Path) -> Iterator[str]:
    parquet = optional("pyarrow.parquet", f"text {path}")
    try:
        file = parquet.ParquetFile(path)
    except ValueError as error:  # pyarrow's ArrowInvalid is one
        raise InputError(f"text {path}: expected a parquet file, found {_first_line(error)}") from error
    column = _field(file.schema_arrow.names, f"text {path}")
    for batch in file.iter_batches(columns=[column]):
        yield from (_string(value, f"text {path}, column {column}") for value in batch.column(0).to_pylist())


def _hub(source: str, max_characters: int | None) -> Iterator[str]:
    if max_characters is None:
        raise InputError(f"text {source}: a hub data set is streamed, so say how much of it: max_characters")
    datasets = optional("datasets", f"text {source}")
    try:
        for row in datasets.load_dataset(source, split="train", streaming=True):
            yield _string(row[_field(row, f"text {source}")], f"text {source}")
    except InputError:
        raise
    except (OSError, ValueError) as error:
        found = _first_line(error)
        raise InputError(f"text {source}: no such file, and not readable as a hub data set: {found}") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


EMBEDDED: dict[str, Callable[[], Iterable[str]]] = {
    "stdlib:prose": standard_library.prose,
    "stdlib:code": standard_library.code,
}
READERS: dict[str, Callable[[Path], Iterable[str]]] = {
    ".txt": _text_file,
    ".jsonl": _jsonl_file,
    ".parquet": _parquet_file,
}


# Splits and tokenizers ----------------------------------------------------------------------------------------


def split(document: str) -> Split:
    """The split of a document, by its hash: 90 % train, 5 % tune, 5 % test. Copies fall into the same one."""
    share = _hash(document) % 20
    return "train" if share < 18 else "tune" if share == 18 else "test"


def _hash(document: str) -> int:
    return int.from_bytes(hashlib.sha256(document.encode()).digest()[:8], "big")


def train_tokenizer(corpus: Corpus, vocabulary: int) -> Tokenizer:
    """Byte-level BPE learnt on four million characters of the train split, the first in the order of their hashes;
    ``<|endoftext|>`` is id 0.

    A corpus too small for so many pairs gives a smaller vocabulary. Raises InputError if there is no room for
    the single bytes, or nothing to learn from.
    """
    # These 13 bytes occur in no UTF-8 text; their symbols are themselves (GPT-2's byte map).
    never = {chr(byte) for byte in (0xC0, 0xC1, *range(0xF5, 0x100))}
    alphabet = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - never)
    if vocabulary <= len(alphabet):
        raise InputError(f"vocabulary: expected at least {len(alphabet) + 1} (bytes and end of text), not {vocabulary}")
    documents = sorted((document for document in corpus.documents if split(document) == "train"), key=_hash)
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
        raise InputError(
            f"{path}: expected a tokenizer in the tokenizers format, found {_first_line(error)}"
        ) from error
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
        return _token_id(tokenizer, END_OF_TEXT)
    paths = (directory / name for name in ("tokenizer_config.json", "config.json"))
    names, ids = (
        read_json(path, "give a checkpoint whose files are whole") if path.is_file() else {} for path in paths
    )
    for role in ("eos", "bos"):
        listed = ids.get(f"{role}_token_id")
        number = listed[0] if isinstance(listed, list) and listed else listed
        found = _token_id(tokenizer, names.get(f"{role}_token"))
        if found is None and isinstance(number, int):
            found = number
        if found is not None:
            return found
    return None


def _token_id(tokenizer: Tokenizer, token: Any) -> int | None:
    """Of a token as tokenizer_config.json gives it: a string, or an object with its content."""
    text = token.get("content") if isinstance(token, Mapping) else token
    found: int | None = tokenizer.token_to_id(text) if isinstance(text, str) else None
    return found


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
    with locked(directory / f"{identity}.bin"):
        tokens = open_tokens(directory, identity)
        if tokens is not None:
            return tokens
        counts = dict.fromkeys(SPLITS, 0)
        with recorded(directory / f"{identity}.bin") as temporary, temporary.open("wb") as file:
            for part in SPLITS:
                for ids in _encoded([text for text in corpus.documents if split(text) == part], tokenizer, end_token):
                    file.write(ids.astype(dtype).tobytes())
                    counts[part] += len(ids)
        described = {**recipe, "source": corpus.source, "dtype": dtype.name, "vocabulary": size, "counts": counts}
        with recorded(directory / f"{identity}.json") as temporary:
            temporary.write_text(json.dumps(described, indent=1))
    tokens = open_tokens(directory, identity)
    if tokens is None:
        raise InputError(f"text {corpus.source}: its documents hold no tokens; give more text")
    return tokens


def open_tokens(directory: Path, identity: str) -> Tokens | None:
    """The tokens made under this id, memory-mapped; None if they are missing, empty or of the wrong size."""
    path, description = (directory / f"{identity}.{kind}" for kind in ("bin", "json"))
    if not path.is_file() or not description.is_file():
        return None
    described = read_json(description)
    total = sum(described["counts"].values())
    if not total or path.stat().st_size != total * np.dtype(described["dtype"]).itemsize:
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
