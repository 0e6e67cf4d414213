"""Images: where they come from, how they are split, batches of them, and what a model of single pixels reaches."""

import hashlib
import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from ontogeny.errors import InputError
from ontogeny.files import locked, read_json, recorded
from ontogeny.streams import numpy_stream
from ontogeny.training.batches import draw
from ontogeny.training.image_sources import Row, decode, read_rows
from ontogeny.training.text import SPLITS, Split

Batch = dict[str, Tensor]  # "pixels" (B, C, H, W) float32, standardised; "labels" (B,) int64

LINEAR_IMAGES = 5_000
LINEAR_ITERATIONS = 50
LINEAR_STRENGTHS = (1e-3, 1e-2, 1e-1)  # scikit-learn's C, the inverse of the penalty


@dataclass(frozen=True, eq=False)
class Labelled:
    """Images of one split, memory-mapped and read-only, and their classes, counted from 0."""

    pixels: UInt8[np.ndarray, "images height width channels"]
    labels: Int[np.ndarray, " images"]


@dataclass(frozen=True, eq=False)
class Images:
    """A data set of square images of one size. ``mean`` and ``std`` are the train split's, per channel, in grey
    levels (0 … 255); ``digest`` is the sha256 over the encoded images, their labels and their splits."""

    train: Labelled
    tune: Labelled
    test: Labelled
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    digest: str


def read_images(source: str, folder: Path) -> Images:
    """The images of a source: decoded once into ``folder/<digest>.bin`` (with ``.json``), then only mapped.

    A source is ``digits`` (scikit-learn's, 8 × 8 × 1), a folder with train.parquet and test.parquet, a single
    .parquet file, or a hub data set id; columns are img (or image) and label. The test split is the source's own; 5 %
    of the train images, by their hash, are tune, and 5 % test where the source has none; copies fall together.
    Raises InputError for a source, a row, a label or an image that can't be used, and for a class that train lacks.
    """
    splits = _splits(read_rows(source))
    classes = _classes(source, splits)
    identity = _digest(splits)
    images = open_images(folder, identity)
    if images is None:
        with locked(folder / f"{identity}.bin"):
            images = open_images(folder, identity)
            if images is None:
                _store(source, splits, classes, identity, folder)
                images = open_images(folder, identity)
    assert images is not None
    return images


def open_images(folder: Path, digest: str) -> Images | None:
    """The images stored under this digest, memory-mapped; None if they are missing or of the wrong size."""
    path, description = (folder / f"{digest}.{kind}" for kind in ("bin", "json"))
    if not path.is_file() or not description.is_file():
        return None
    described = read_json(description)
    shape = (len(described["labels"]), *described["shape"])
    if path.stat().st_size != math.prod(shape):
        return None
    pixels = np.memmap(path, np.uint8, "r", shape=shape)
    labels = np.array(described["labels"], dtype=np.int64)
    ends = np.cumsum([described["counts"][part] for part in SPLITS])[:-1]
    train, tune, test = map(Labelled, np.split(pixels, ends), np.split(labels, ends))
    mean, std = tuple(described["mean"]), tuple(described["std"])
    return Images(train, tune, test, described["classes"], mean, std, described["source"], digest)


# Splits and the cache -----------------------------------------------------------------------------------------


def _splits(parts: Mapping[str, list[Row]]) -> dict[Split, list[Row]]:
    """By the hash of the encoded image, as documents are: 5 % of the train rows are tune, 5 % test if there is none."""
    splits: dict[Split, list[Row]] = {"train": [], "tune": [], "test": [*parts.get("test", ())]}
    cut: dict[int, Split] = {18: "tune"} if "test" in parts else {18: "tune", 19: "test"}
    for row in parts["train"]:
        share = int.from_bytes(hashlib.sha256(row.image).digest()[:8], "big") % 20
        splits[cut.get(share, "train")].append(row)
    return splits


def _classes(source: str, splits: Mapping[Split, list[Row]]) -> int:
    """The number of classes; raises InputError for an empty split, and unless train has every class."""
    for part in SPLITS:
        if not splits[part]:
            raise InputError(f"images {source}: no image fell into the {part} split; give more images")
    last = max((row for rows in splits.values() for row in rows), key=lambda row: row.label)
    trained = {row.label for row in splits["train"]}
    missing = next((label for label in range(last.label + 1) if label not in trained), None)
    if missing is not None:
        raise InputError(
            f"images {source}: expected each of the classes 0 … {last.label} in the train split (label {last.label} "
            f"stands in row {last.number} of {last.where.removeprefix('images ')}), found no image of class {missing}; "
            "add images of it, or number the classes without gaps"
        )
    if last.label < 1:
        raise InputError(f"images {source}: expected at least two classes, found one")
    return last.label + 1


def _digest(splits: Mapping[Split, list[Row]]) -> str:
    hashed = hashlib.sha256()
    for part in SPLITS:
        hashed.update(f"{part} {len(splits[part])} ".encode())
        for row in splits[part]:
            hashed.update(hashlib.sha256(row.image).digest() + row.label.to_bytes(8, "big"))
    return hashed.hexdigest()


def _store(source: str, splits: Mapping[Split, list[Row]], classes: int, identity: str, folder: Path) -> None:
    """Decode every image into one file, one after the other; the .json, which makes it count, is written last."""
    shape = decode(splits["train"][0]).shape
    if shape[0] != shape[1]:
        raise InputError(f"images {source}: expected square images, found {shape[0]} × {shape[1]} pixels; crop them")
    counts = {part: len(splits[part]) for part in SPLITS}
    with recorded(folder / f"{identity}.bin") as temporary:
        with temporary.open("wb") as file:
            for part in SPLITS:
                for row in splits[part]:
                    pixels = decode(row)
                    _check_shape(row, pixels.shape, shape)
                    file.write(pixels.tobytes())
        mean, std = _moments(np.memmap(temporary, np.uint8, "r", shape=(counts["train"], *shape)))
        if not all(std):
            raise InputError(
                f"images {source}: all train pixels of channel {std.index(0)} are equal: nothing to learn from"
            )
    labels = [row.label for part in SPLITS for row in splits[part]]
    described = {"source": source, "classes": classes, "shape": shape, "mean": mean, "std": std, "counts": counts}
    with recorded(folder / f"{identity}.json") as temporary:
        temporary.write_text(json.dumps(described | {"labels": labels}))


def _check_shape(row: Row, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        wanted, found = (" × ".join(map(str, dimensions)) for dimensions in (expected, shape))
        raise InputError(
            f"{row.where}, row {row.number}: expected {wanted} (height × width × channels) as in the first image, "
            f"found {found}; give all images one size and one number of channels"
        )


def _moments(train: NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, from exact sums of whole numbers."""
    total = squares = np.zeros(train.shape[-1], dtype=np.int64)
    for start in range(0, len(train), 1024):
        values = train[start : start + 1024].reshape(-1, train.shape[-1]).astype(np.int64)
        total, squares = total + values.sum(0), squares + (values * values).sum(0)
    count = math.prod(train.shape[:-1])
    moments = [(int(t), int(s)) for t, s in zip(total, squares, strict=True)]
    return [t / count for t, _ in moments], [math.sqrt(count * s - t * t) / count for t, s in moments]


# Batches ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ImageBatches:
    """Training batches as a pure function of (seed, step); every epoch visits each image once, in its own order.

    ``augment``: each image flipped left to right with probability ½, then cropped at random from its reflection-padded
    self (4 pixels for 32 × 32 as in He et al. 2016, an eighth of the size for others); labels stay.
    """

    images: Images
    size: int
    seed: int
    augment: bool = False

    def __call__(self, step: int) -> Batch:
        """The batch of a step (from 0)."""
        train = self.images.train
        chosen = draw(self.seed, step, self.size, len(train.labels))
        pixels = train.pixels[chosen]
        if self.augment:
            pixels = augmented(pixels, numpy_stream(self.seed, "augment", step))
        return _batch(self.images, pixels, train.labels[chosen])

    def epochs(self, steps: int) -> float:
        """How often ``steps`` steps visit each image."""
        return steps * self.size / len(self.images.train.labels)


def augmented(
    pixels: UInt8[np.ndarray, "images height width channels"], generator: np.random.Generator
) -> UInt8[np.ndarray, "images height width channels"]:
    """Each image flipped left to right with probability ½, then shifted by up to an eighth of its size (at least one
    pixel) in either direction, the border filled by reflection. Grey ones aren't flipped: a mirrored digit is none."""
    count, height, width, channels = pixels.shape
    pad = max(1, height // 8)
    flipped = (generator.random((count, 1)) < 0.5) & (channels > 1)
    top, left = generator.integers(0, 2 * pad + 1, (2, count, 1))
    padded = np.pad(pixels, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")
    rows = top + np.arange(height)
    columns = left + np.where(flipped, np.arange(width)[::-1], np.arange(width))
    moved: NDArray[np.uint8] = padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved


def evaluation_images(images: Images, split: Split, count: int) -> Batch:
    """``count`` images of a split, each class with its share (to within one) and spread over the split.

    All of them where fewer exist; always the same ones, in the split's order.
    """
    part: Labelled = getattr(images, split)
    chosen = _spread(part.labels, count)
    return _batch(images, part.pixels[chosen], part.labels[chosen])


def _spread(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Indices of ``count`` images, evenly spaced over the images sorted by class, so that classes keep their shares."""
    taken = min(count, len(labels))
    chosen: NDArray[np.int64] = np.argsort(labels, kind="stable")[np.arange(taken) * len(labels) // taken]
    return np.sort(chosen)


def _batch(images: Images, pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> Batch:
    """Channels first and standardised by the train split: (x − mean) / std."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (images.mean, images.std))
    raw = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()  # (B, C, H, W)
    return {"pixels": (raw - mean) / std, "labels": torch.from_numpy(labels)}


# References ---------------------------------------------------------------------------------------------------


def image_references(images: Images, tune: Batch, test: Batch) -> dict[str, dict[str, dict[str, float]]]:
    """{"tune", "test"} -> {"uniform", "prior", "linear"} -> {"loss": nats an image, "error": share wrong}.

    Prior: the classes' shares of the train split. Linear: multinomial logistic regression on the standardised
    pixels of 5,000 train images (and each class's first), 50 iterations of L-BFGS, its penalty the best on tune.
    """
    batches = {"tune": tune, "test": test}
    shares = np.bincount(images.train.labels) / len(images.train.labels)
    linear = _linear(images, batches)
    scored = {}
    for name, batch in batches.items():
        labels = batch["labels"].numpy()
        scored[name] = {
            "uniform": {"loss": math.log(images.classes), "error": 1 - 1 / images.classes},
            "prior": _score(np.tile(np.log(shares), (len(labels), 1)), labels),
            "linear": _score(linear[name], labels),
        }
    return scored


def _score(log_probabilities: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]) -> dict[str, float]:
    chosen = log_probabilities[np.arange(len(labels)), labels]
    return {"loss": float(-chosen.mean()), "error": float((log_probabilities.argmax(1) != labels).mean())}


def _linear(images: Images, batches: Mapping[str, Batch]) -> dict[str, NDArray[np.float64]]:
    """Log-probabilities for each batch by the logistic regression that does best on "tune"."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    train = images.train
    firsts = np.unique(train.labels, return_index=True)[1]  # a rare class might have no other
    chosen = np.union1d(_spread(train.labels, LINEAR_IMAGES), firsts)
    sample = _batch(images, train.pixels[chosen], train.labels[chosen])
    found = []
    for strength in LINEAR_STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=LINEAR_ITERATIONS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the iterations are a fixed budget
            model.fit(_flat(sample), sample["labels"].numpy())
        found.append({name: np.log(model.predict_proba(_flat(b)).clip(1e-300)) for name, b in batches.items()})
    return min(found, key=lambda predicted: _score(predicted["tune"], batches["tune"]["labels"].numpy())["loss"])


def _flat(batch: Batch) -> NDArray[np.float64]:
    return batch["pixels"].flatten(1).double().numpy()
