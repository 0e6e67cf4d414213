"""Which directions of a developed run live: as results hold them, and how alike two runs' survivors are."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from ontogeny.training.develop import Development

Survivors = Mapping[str, Bool[np.ndarray, " k"]]  # site -> which of its directions live in the end


def described(found: Development) -> dict[str, Any]:
    """Site -> its number of directions, and which of them lived at first and after every round, as bits in hex."""
    return {
        site: {"directions": rows.shape[1], "lived": [np.packbits(row.numpy()).tobytes().hex() for row in rows]}
        for site, rows in found.lived.items()
    }


def survivors(result: Mapping[str, Any]) -> Survivors:
    """What lives in the end of a run, from its result."""
    return {site: _alive(entry) for site, entry in result["lived"].items()}


def _alive(entry: Mapping[str, Any]) -> Bool[np.ndarray, " k"]:
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(entry["lived"][-1]), np.uint8))
    return bits[: entry["directions"]].astype(bool)


def likeness_matrix(runs: Mapping[Any, Survivors]) -> Float[np.ndarray, "runs runs"]:
    """Cosine of the survivors of every two runs, all matrices together, in the mapping's order."""
    rows = np.array([np.concatenate(list(sites.values())) for sites in runs.values()], dtype=np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found: Float[np.ndarray, "runs runs"] = rows @ rows.T
    return found


def chance(one: Survivors) -> float:
    """The cosine that masks with as many survivors in every matrix have by chance."""
    lived = sum(int(kept.sum()) for kept in one.values())
    return sum(int(kept.sum()) ** 2 / len(kept) for kept in one.values()) / lived
