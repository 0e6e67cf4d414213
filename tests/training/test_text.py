"""Sources of text, splits by hash, tokenizers, and tokens made once and mapped."""

import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from tokenizers import Tokenizer

from ontogeny.errors import InputError
from ontogeny.training import standard_library, text
from ontogeny.training.text import (
    Corpus,
    end_token,
    load_tokenizer,
    open_tokens,
    read_corpus,
    split,
    tokenise,
    train_tokenizer,
)

WORDS = "the wood and its leaves were seen at night by some ä 漢 fox"


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    rng = np.random.default_rng(0)
    documents = tuple(" ".join(rng.choice(WORDS.split(), 60)) for _ in range(300))
    return Corpus("drawn", documents, "d" * 64)


@pytest.fixture(scope="module")
def tokenizer(corpus: Corpus) -> Tokenizer:
    return train_tokenizer(corpus, 280)


# Sources


def test_embedded_sources_are_read_the_same_twice() -> None:
    first, second = (read_corpus(["stdlib:prose", "stdlib:code"]) for _ in range(2))
    assert first == second
    assert first.digest != read_corpus(["stdlib:prose"]).digest != read_corpus(["stdlib:code"]).digest
    assert {split(document) for document in first.documents} == {"train", "tune", "test"}


def test_embedded_text_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = read_corpus(["stdlib:prose"], max_characters=30_000)
    assert read_corpus(["stdlib:prose"], max_characters=30_000, keep=tmp_path) == parsed
    monkeypatch.setitem(text.EMBEDDED, "stdlib:prose", lambda: pytest.fail("it was parsed again"))
    assert read_corpus(["stdlib:prose"], max_characters=30_000, keep=tmp_path) == parsed
    monkeypatch.setitem(text.EMBEDDED, "stdlib:prose", lambda: ["another text"])
    monkeypatch.setattr(standard_library, "fingerprint", lambda: "of another Python")
    assert read_corpus(["stdlib:prose"], max_characters=30_000, keep=tmp_path).documents == ("another text",)


def test_text_file_is_cut_at_paragraph_ends(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("".join(f"{'word ' * (50 + n % 7)}\n\n" for n in range(400)), encoding="utf-8")
    documents = read_corpus([str(path)]).documents
    assert "".join(documents) == path.read_text(encoding="utf-8")
    assert all(document.endswith("\n\n") for document in documents)
    assert all(20_000 <= len(document) < 20_400 for document in documents[:-1])


def test_jsonl_parquet_and_folders(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "rows.jsonl").write_text('{"content": "one ä"}\n\n{"text": "two", "content": "x"}\n', "utf-8")
    pyarrow.parquet.write_table(pyarrow.table({"id": [1, 2], "text": ["three", " "]}), tmp_path / "a.parquet")
    (tmp_path / "c.txt").write_text("four", "utf-8")
    (tmp_path / "d.csv").write_text("no", "utf-8")
    assert read_corpus([str(tmp_path)]).documents == ("three", "one ä", "two", "four")


def test_max_characters_counts_within_each_source(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "abcd"}\n{"text": "efgh"}\n{"text": "ijkl"}\nnot JSON\n', "utf-8")
    corpus = read_corpus([str(path), str(path)], max_characters=6)
    assert corpus.documents == ("abcd", "ef", "abcd", "ef")
    assert corpus.source == f"{path}, {path}"


def test_digest_tells_documents_apart(tmp_path: Path) -> None:
    digests = set()
    for number, rows in enumerate((["ab", "c"], ["a", "bc"], ["abc"], ["c", "ab"])):
        path = tmp_path / f"{number}.jsonl"
        path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), "utf-8")
        digests.add(read_corpus([str(path)]).digest)
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "no such file"),
        ("empty.txt", b" \n", "found none"),
        ("latin.txt", b"caf\xe9", "expected UTF-8"),
        ("bad.jsonl", b'{"text": "a"}\n{"text', "line 2: expected a JSON object"),
        ("latin.jsonl", b'{"text": "caf\xe9"}', "line 1: expected a JSON object in UTF-8"),
        ("list.jsonl", b'["a"]', "found list"),
        ("fields.jsonl", b'{"body": "a"}', "expected a field text or content, found body"),
        ("number.jsonl", b'{"text": 3}', "expected a string, found int"),
        ("surrogate.jsonl", b'{"text": "\\ud800"}', "not valid Unicode"),
        ("bad.parquet", b"not parquet", "expected a parquet file"),
        ("fiction", None, "expected stdlib:prose, stdlib:code"),
        ("novel.csv", b"a", "expected stdlib:prose, stdlib:code"),
    ],
)
def test_bad_sources_give_one_line(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_corpus([str(tmp_path / name)])
    assert "\n" not in str(caught.value)


def test_no_source_is_an_error() -> None:
    with pytest.raises(InputError, match="at least one source"):
        read_corpus([])


def test_hub_data_set_is_streamed_and_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = ModuleType("datasets")
    rows = iter([{"text": "abcd"}, {"text": "efgh"}, {"text": "ijkl"}])
    asked = []

    def load_dataset(*args: object, **options: object) -> object:
        asked.append((args, options))
        return rows

    monkeypatch.setattr(hub, "load_dataset", load_dataset, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", hub)
    assert read_corpus(["owner/name"], max_characters=6).documents == ("abcd", "ef")
    assert asked == [(("owner/name",), {"split": "train", "streaming": True})]
    assert next(rows) == {"text": "ijkl"}  # nothing was read beyond the limit
    with pytest.raises(InputError, match="max_characters"):
        read_corpus(["owner/name"])


def test_hub_errors_name_the_source_and_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = ModuleType("datasets")

    def load_dataset(*args: object, **options: object) -> object:
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(hub, "load_dataset", load_dataset, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", hub)
    with pytest.raises(InputError, match=r"owner/name.*no route$"):
        read_corpus(["owner/name"], max_characters=6)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install 'ontogeny\[data\]'"):
        read_corpus(["owner/name"], max_characters=6)


# Splits and tokenizers


def test_split_shares() -> None:
    counts = Counter(split(f"document {n}") for n in range(20_000))
    assert counts["train"] == pytest.approx(18_000, abs=200)
    assert counts["tune"] == pytest.approx(1_000, abs=150)
    assert counts["test"] == pytest.approx(1_000, abs=150)
    assert split("document 0") == split("document 0")


def test_tokenizer_is_deterministic_and_lossless(corpus: Corpus, tokenizer: Tokenizer) -> None:
    reordered = Corpus("drawn", corpus.documents[::-1], "d" * 64)
    assert tokenizer.to_str() == train_tokenizer(corpus, 280).to_str() == train_tokenizer(reordered, 280).to_str()
    assert tokenizer.get_vocab_size() == 280
    assert tokenizer.token_to_id("<|endoftext|>") == 0
    unseen = "naïve Ω\n\n\t  def f(x):\r\n  🦊 \x00"
    assert tokenizer.decode(tokenizer.encode(unseen).ids) == unseen


def test_tokenizer_learns_from_the_train_split_only(corpus: Corpus, tokenizer: Tokenizer) -> None:
    held_out = tuple(text for n in range(400) if split(text := f"{n} zyxwzyxw zyxwzyxw") != "train")
    assert len(held_out) > 20
    more = Corpus("more", corpus.documents + held_out, "e" * 64)
    assert train_tokenizer(more, 280).to_str() == tokenizer.to_str()


def test_smallest_vocabulary_holds_every_byte(corpus: Corpus) -> None:
    assert train_tokenizer(corpus, 256).get_vocab_size() == 256  # the smoke scale
    with pytest.raises(InputError, match="at least 244"):
        train_tokenizer(corpus, 243)
    held_out = tuple(document for document in corpus.documents if split(document) != "train")
    with pytest.raises(InputError, match="no document fell into the train split"):
        train_tokenizer(Corpus("tiny", held_out, "f" * 64), 300)


def test_checkpoint_tokenizer(shared: Path, tmp_path: Path) -> None:
    directory = shared / "checkpoints" / "stories260K"
    tokenizer = load_tokenizer(directory)
    assert tokenizer.get_vocab_size() == 512
    assert end_token(tokenizer, directory) == 2
    with pytest.raises(InputError, match="no such file"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}", "utf-8")
    with pytest.raises(InputError, match="expected a tokenizer"):
        load_tokenizer(tmp_path)


def test_checkpoint_tokenizer_neither_cuts_nor_pads(tokenizer: Tokenizer, tmp_path: Path) -> None:
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.enable_truncation(4)
    copy.enable_padding(length=64)
    copy.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path).encode(WORDS).ids == tokenizer.encode(WORDS).ids


@pytest.mark.parametrize(
    ("tokenizer_config", "config", "expected"),
    [
        ({"eos_token": "<|endoftext|>"}, {"eos_token_id": 7}, 0),
        ({"eos_token": {"content": "<|endoftext|>"}}, {}, 0),
        ({"eos_token": None}, {"eos_token_id": [7, 8]}, 7),
        ({"bos_token": "<|endoftext|>"}, {"eos_token_id": 7}, 7),
        ({"bos_token": "<|endoftext|>"}, None, 0),
        (None, {"eos_token_id": None, "bos_token_id": 5}, 5),
        ({"eos_token": "absent"}, {}, None),
    ],
)
def test_end_token_of_a_checkpoint(
    tokenizer: Tokenizer, tmp_path: Path, tokenizer_config: object, config: object, expected: int | None
) -> None:
    for name, value in (("tokenizer_config.json", tokenizer_config), ("config.json", config)):
        if value is not None:
            (tmp_path / name).write_text(json.dumps(value), "utf-8")
    assert end_token(tokenizer, tmp_path) == expected
    assert end_token(tokenizer, None) == 0


# Tokens


def test_tokens_are_the_documents_of_each_split(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "BATCH_CHARACTERS", 1_000)  # several batches
    tokens = tokenise(corpus, tokenizer, 0, tmp_path)
    for name in text.SPLITS:
        expected = [
            id
            for document in corpus.documents
            if split(document) == name
            for id in [*tokenizer.encode(document).ids, 0]
        ]
        np.testing.assert_array_equal(getattr(tokens, name), expected)
    assert tokens.vocabulary == 280
    assert tokens.train.dtype == np.uint16
    assert not tokens.train.flags.writeable
    kept = {path.name for path in tmp_path.iterdir() if path.suffix not in (".lock", ".sha256")}
    assert kept == {f"{tokens.digest}.bin", f"{tokens.digest}.json"}


def test_tokens_are_made_once_and_checked(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tokenise(corpus, tokenizer, None, tmp_path)
    expected = np.array(first.test)
    assert 0 not in first.train
    whole = (tmp_path / f"{first.digest}.bin").read_bytes()
    (tmp_path / f"{first.digest}.bin").write_bytes(whole[:-2])  # a copy that was cut off
    assert open_tokens(tmp_path, first.digest) is None
    assert tokenise(corpus, tokenizer, None, tmp_path).digest == first.digest
    assert (tmp_path / f"{first.digest}.bin").read_bytes() == whole
    monkeypatch.setattr(text, "_encoded", None)  # from here on nothing may be tokenised
    again = tokenise(corpus, tokenizer, None, tmp_path)
    np.testing.assert_array_equal(again.test, expected)
    with pytest.raises(TypeError):
        tokenise(corpus, tokenizer, 0, tmp_path)  # another end token is another file
    assert {path.suffix for path in tmp_path.glob(".*")} == {".lock"}


def test_large_vocabulary_takes_four_bytes(corpus: Corpus, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(corpus, 280)
    tokenizer.add_tokens([f"<{n}>" for n in range(70_000)])
    last = Corpus("one", (next(d for d in corpus.documents if split(d + "<69999>") == "train") + "<69999>",), "0" * 64)
    tokens = tokenise(last, tokenizer, None, tmp_path)
    assert tokens.train.dtype == np.uint32
    assert tokens.train[-1] == tokens.vocabulary - 1 == 70_279
    assert len(tokens.tune) == len(tokens.test) == 0
