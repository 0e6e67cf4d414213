"""Small valid files changed in every way: bytes at random, or what their structure says."""

import json
import random
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

ABSURD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 2**31, 2**53, 2**63, 2**64, 10**12, 10**18, 10**30, -(2**63), 0.5, -0.0,
    1e308, float("nan"), float("inf"), "", "x", "0", "F32", "F64", "BF16", "F8_E4M3", "I64", "U8", "..", "/", "a/b",
    "../x", "\0", "\ud800", "é", "%s", "{0}", "x" * 5000, "model.safetensors", "llama", "gpt2", "phi3", "gpt_neox",
    "vit", "mask", "subspace", [], [0], [[]], ["x"], [0, 0], [1, 1], [-1, 4], [2**40, 2**40], [0, 2**63], [10**12, 0],
    [0, 10**12], [3, 2**62], [16, 10], {}, {"x": 1}, {"": None}, {"a": {"b": {}}},
)  # fmt: skip


def bytes_changed(content: bytes, rng: random.Random) -> bytes:
    """A few bytes flipped, cut out, put in, repeated; or the file ended early."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at, size = rng.randrange(len(changed) + 1), rng.choice((1, 1, 1, 2, 4, 8, 64, 1000))
        match rng.randrange(6):
            case 0:
                changed[at : at + size] = rng.randbytes(len(changed[at : at + size]))
            case 1:
                changed[at : at + 1] = bytes(byte ^ 1 << rng.randrange(8) for byte in changed[at : at + 1])
            case 2:
                del changed[at : at + size]
            case 3:
                changed[at:at] = rng.randbytes(size)
            case 4:
                changed[at:at] = changed[max(0, at - size) : at]
            case 5:
                del changed[at:]
    return bytes(changed)


def json_changed(value: Any, rng: random.Random) -> Any:
    """One to three values anywhere in it replaced, removed, renamed or doubled; ``value`` is changed in place."""
    for _ in range(rng.randint(1, 3)):
        holders = list(_holders(value))
        if not holders:
            return deepcopy(rng.choice(ABSURD))
        holder, key = rng.choice(holders)
        match rng.randrange(6):
            case 0 | 1 | 2:
                holder[key] = deepcopy(rng.choice(ABSURD))  # what is changed next must not be the list itself
            case 3:
                del holder[key]
            case 4:
                holder[key] = _nudged(holder[key], rng)
            case 5 if isinstance(holder, dict):
                holder[rng.choice([str(word) for word in ABSURD[20:30]])] = deepcopy(holder[key])
            case 5:
                holder.append(deepcopy(holder[key]))
    return value


def _nudged(value: Any, rng: random.Random) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return [value]
    return value + rng.choice((-1, 1, 8, -8, 2**32)) if isinstance(value, int) else value[:-1] + rng.choice("x/.\0é")


def _holders(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict | list):
        for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield value, key
            yield from _holders(inner)


def json_text(value: Any, rng: random.Random) -> bytes:
    """As JSON, sometimes with a key twice, sometimes deeply nested, or in another encoding."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    match rng.randrange(40):
        case 0:
            text = text.replace("{", '{"model_type":"llama","weight_map":[],', 1)
        case 1:
            text = text.replace(":", ":" + "[" * 100_000, 1)
        case 2:
            text = "\ufeff" + text
        case 3:
            return text.encode("utf-16", "surrogatepass")
        case 4:
            text = text.replace(":", ":" + "9" * rng.choice((400, 5000)), 1)
    return text.encode("utf-8", "surrogatepass")


def config_changed(content: bytes, rng: random.Random) -> bytes:
    """A JSON file, by its structure or by its bytes."""
    if rng.random() < 0.25:
        return bytes_changed(content, rng)
    return json_text(json_changed(json.loads(content), rng), rng)


def safetensors_changed(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file: its length, its header, the JSON in its metadata, its data."""
    length = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + length], content[8 + length :]
    match rng.randrange(9):
        case 0 | 1:
            return bytes_changed(content, rng)
        case 8:
            value, data = emptied(json.loads(header), data, rng)
            header = json.dumps(value).encode()
        case 2:
            declared = rng.choice((0, 1, length - 1, length + 1, 2**31, 2**62, 2**63, 2**64 - 1, 10**8, 10**8 + 1))
            return declared.to_bytes(8, "little") + header + data
        case 3:
            header = bytes_changed(header, rng)
        case 4:
            data = bytes_changed(data, rng) if data else b"x"
        case _:
            value = json.loads(header)
            inner = value.get("__metadata__", {}).get("ontogeny")
            if inner and rng.random() < 0.6:
                changed = json_text(json_changed(json.loads(inner), rng), rng)
                value["__metadata__"]["ontogeny"] = changed.decode("utf-8", "replace")
            else:
                value = json_changed(value, rng)
            header = json_text(value, rng)
    return len(header).to_bytes(8, "little") + header + data


def emptied(header: Any, data: bytes, rng: random.Random) -> tuple[Any, bytes]:
    """One tensor without entries, however long one of its sides; all offsets fit."""
    names = [name for name in header if name != "__metadata__"]
    chosen, kept = rng.choice(names), b""
    for name in sorted(names, key=lambda name: header[name]["data_offsets"][0]):
        start, stop = header[name]["data_offsets"]
        part = b"" if name == chosen else data[start:stop]
        header[name]["data_offsets"] = [len(kept), len(kept) + len(part)]
        kept += part
    header[chosen]["shape"] = rng.choice(([10**12, 0], [0, 10**12], [2**62, 0], [0, 2**62], [0], [4, 0, 2**40]))
    return header, kept
