"""Splits, the cache, batches as a function of (seed, step), and references against sums by hand."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_image_sources import drawn, encoded, write
from torch import Tensor

from ontogeny.errors import InputError
from ontogeny.training.image_sources import read_rows
from ontogeny.training.images import (
    Batch,
    ImageBatches,
    Images,
    Labelled,
    augmented,
    evaluation_images,
    image_references,
    open_images,
    read_images,
)
from ontogeny.training.text import SPLITS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def digits(folder: Path) -> Images:
    return read_images("digits", folder)


def parquet(path: Path, count: int = 200, classes: int = 3, size: int = 8) -> Path:
    pixels = drawn(count, size, size, 3)
    return write(path, [encoded(image) for image in pixels], [n % classes for n in range(count)])


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(a[name], b[name]) for name in ("pixels", "labels"))


# Splits and the cache


def test_splits_hold_every_image_once_with_its_label(tmp_path: Path) -> None:
    pixels = drawn(200, 8, 8, 3)
    path = write(tmp_path / "one.parquet", [encoded(image) for image in pixels], [n % 3 for n in range(200)])
    images = read_images(str(path), tmp_path)
    found = {
        image.tobytes(): label
        for part in (images.train, images.tune, images.test)
        for image, label in zip(part.pixels, part.labels, strict=True)
    }
    assert found == {image.tobytes(): n % 3 for n, image in enumerate(pixels)}
    assert images.classes == 3


def test_shares_of_the_splits(digits: Images, tmp_path: Path) -> None:
    """1,797 digits: 5 % are 90, with a standard deviation of 9; a source's own test split stays whole."""
    assert len(digits.tune.labels) == pytest.approx(90, abs=30)
    assert len(digits.test.labels) == pytest.approx(90, abs=30)
    assert sum(len(getattr(digits, part).labels) for part in SPLITS) == 1797
    parquet(tmp_path / "train.parquet", 400)
    parquet(tmp_path / "test.parquet", 30)
    images = read_images(str(tmp_path), tmp_path / "cache")
    assert len(images.test.labels) == 30
    assert len(images.train.labels) + len(images.tune.labels) == 400
    assert 5 <= len(images.tune.labels) <= 40


def test_copies_of_an_image_fall_into_one_split(tmp_path: Path) -> None:
    blobs = [encoded(image) for image in drawn(150, 4, 4, 3)]
    images = read_images(str(write(tmp_path / "a.parquet", blobs * 2, [n % 2 for n in range(300)])), tmp_path)
    seen = [{image.tobytes() for image in part.pixels} for part in (images.train, images.tune, images.test)]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


def test_the_cache_is_written_once_and_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path / "one.parquet")
    first = read_images(str(path), tmp_path / "cache")
    monkeypatch.setattr("ontogeny.training.images.decode", None)  # a second decoding would fail
    again = read_images(str(path), tmp_path / "cache")
    opened = open_images(tmp_path / "cache", first.digest)
    assert opened is not None
    for images in (again, opened):
        assert isinstance(images.train.pixels, np.memmap)
        assert not images.train.pixels.flags.writeable
        assert np.array_equal(images.test.pixels, first.test.pixels)
        assert np.array_equal(images.test.labels, first.test.labels)
        assert (images.digest, images.mean, images.std) == (first.digest, first.mean, first.std)
    kept = [file.suffix for file in (tmp_path / "cache").iterdir() if file.suffix not in (".lock", ".sha256")]
    assert sorted(kept) == [".bin", ".json"]


def test_a_cache_that_is_missing_or_cut_is_made_anew(tmp_path: Path) -> None:
    path, cache = parquet(tmp_path / "one.parquet"), tmp_path / "cache"
    first = read_images(str(path), cache)
    kept = np.array(first.train.pixels)
    assert open_images(cache, "0" * 64) is None
    file = cache / f"{first.digest}.bin"
    file.write_bytes(file.read_bytes()[:-1])
    assert open_images(cache, first.digest) is None
    assert np.array_equal(read_images(str(path), cache).train.pixels, kept)


def test_the_digest_tells_contents_apart(tmp_path: Path) -> None:
    blobs, labels = [encoded(image) for image in drawn(200, 4, 4, 3)], [n % 2 for n in range(200)]
    swapped = [labels[1], labels[0], *labels[2:]]
    other = [encoded(drawn(1, 4, 4, 3, seed=9)[0]), *blobs[1:]]
    cases = {"a": (blobs, labels), "copy": (blobs, labels), "labels": (blobs, swapped), "image": (other, labels)}
    digests = {
        name: read_images(str(write(tmp_path / f"{name}.parquet", *case)), tmp_path / "cache").digest
        for name, case in cases.items()
    }
    assert digests["a"] == digests["copy"]
    assert len(set(digests.values())) == 3


def mixed(shape: tuple[int, ...]) -> list[bytes]:
    """200 images of 8 × 8 × 3, the last of another shape."""
    return [*(encoded(image) for image in drawn(199, 8, 8, 3)), encoded(drawn(1, *shape)[0])]


BLOBS = mixed((8, 8, 3))
LABELS = [n % 3 for n in range(200)]
BAD = [
    (mixed((8, 9, 3)), LABELS, r"row 200: expected 8 × 8 × 3 .* as in the first image, found 8 × 9 × 3"),
    (mixed((8, 8, 1)), LABELS, r"row 200: expected 8 × 8 × 3 .* as in the first image, found 8 × 8 × 1"),
    ([encoded(image) for image in drawn(200, 6, 8, 3)], LABELS, "expected square images, found 6 × 8"),
    ([*BLOBS[:-1], BLOBS[-1][:50]], LABELS, r"row 200: expected a whole PNG or JPEG image"),
    (BLOBS, [label + (label == 2) for label in LABELS], r"classes 0 … 3 in the train split.*no image of class 2"),
    (BLOBS, [*LABELS[:-1], 2**40], r"row 200 .*no image of class 3"),
    (BLOBS, [0] * 200, "at least two classes, found one"),
    (BLOBS[:4], LABELS[:4], "no image fell into the"),
    ([encoded(np.full((4, 4, 3), n % 7, np.uint8)) for n in range(200)], LABELS, None),
    ([encoded(image) for image in drawn(200, 4, 4, 3) * np.array([1, 0, 1], np.uint8)], LABELS, "channel 1 are equal"),
]


@pytest.mark.parametrize(("images", "labels", "message"), BAD)
def test_bad_images_give_one_line_and_leave_nothing(
    tmp_path: Path, images: list[bytes], labels: list[int], message: str | None
) -> None:
    path, cache = write(tmp_path / "bad.parquet", images, labels), tmp_path / "cache"
    with pytest.raises(InputError, match=message) as caught:
        read_images(str(path), cache)
    assert "bad.parquet" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path.suffix for path in cache.glob("*")} <= {".lock"}


def test_a_class_only_the_test_split_has_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", BLOBS, [label % 2 for label in LABELS])
    write(tmp_path / "test.parquet", BLOBS[:3], [0, 1, 2])
    with pytest.raises(InputError, match=r"label 2 stands in row 3 of .*test\.parquet.*no image of class 2"):
        read_images(str(tmp_path), tmp_path / "cache")


# Batches


def standardised(images: Images, pixels: NDArray[np.uint8]) -> Tensor:
    """By its definition, in float64: (x − mean) / std of the train split's channels."""
    x, train = pixels.astype(np.float64), images.train.pixels.astype(np.float64)
    return torch.from_numpy(((x - train.mean((0, 1, 2))) / train.std((0, 1, 2))).transpose(0, 3, 1, 2))


def test_pixels_are_standardised_by_the_train_split(tmp_path: Path) -> None:
    images = read_images(str(parquet(tmp_path / "one.parquet", 2_100, size=4)), tmp_path)  # beyond one block of sums
    whole = evaluation_images(images, "train", 10_000)
    assert whole["pixels"].dtype == torch.float32
    assert whole["labels"].dtype == torch.int64
    torch.testing.assert_close(whole["pixels"].double(), standardised(images, images.train.pixels), atol=1e-6, rtol=0)
    mean, std = whole["pixels"].double().mean((0, 2, 3)), whole["pixels"].double().std((0, 2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros(3, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(std, torch.ones(3, dtype=torch.float64), atol=1e-6, rtol=0)
    test = evaluation_images(images, "test", 10_000)
    torch.testing.assert_close(test["pixels"].double(), standardised(images, images.test.pixels), atol=1e-6, rtol=0)


@pytest.mark.parametrize("augment", [False, True])
def test_a_batch_is_a_function_of_seed_and_step(digits: Images, augment: bool) -> None:
    first, second = (ImageBatches(digits, 32, seed=3, augment=augment) for _ in range(2))
    later = second(40)
    assert same(first(7), second(7))
    assert same(first(40), later)
    assert first(7)["pixels"].shape == (32, 1, 8, 8)
    assert not same(first(7), first(8))
    assert not same(first(7), ImageBatches(digits, 32, seed=4, augment=augment)(7))


def test_every_epoch_visits_each_image_once_in_its_own_order() -> None:
    """51 images in batches of 17: three steps are an epoch. Each image's pixels are its own number."""
    train = Labelled(np.arange(51, dtype=np.uint8)[:, None, None, None], np.arange(51) % 3)
    images = Images(train, train, train, 3, (0.0,), (1.0,), "made", "0" * 64)
    batches = ImageBatches(images, 17, seed=0)
    epochs = [torch.cat([batches(step)["pixels"].flatten() for step in range(e * 3, e * 3 + 3)]) for e in range(3)]
    for epoch in epochs:
        assert epoch.sort().values.tolist() == list(range(51))
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])
    for step in range(9):
        batch = batches(step)
        assert (batch["pixels"].flatten() % 3).tolist() == batch["labels"].tolist()
    across = ImageBatches(images, 40, seed=0)(1)["pixels"].flatten()  # the last 11 of one epoch, 29 of the next
    assert torch.equal(across, torch.cat([*epochs])[40:80])
    assert batches.epochs(6) == 2


def test_augmentation_keeps_the_labels_and_the_order(digits: Images) -> None:
    plain, augmented_ = (ImageBatches(digits, 64, seed=1, augment=augment)(2) for augment in (False, True))
    assert torch.equal(plain["labels"], augmented_["labels"])
    assert plain["pixels"].shape == augmented_["pixels"].shape
    changed = (plain["pixels"] != augmented_["pixels"]).flatten(1).any(1)
    assert 0.8 < changed.float().mean() < 1  # 1 in 9 isn't moved


def test_grey_images_are_not_mirrored() -> None:
    image = np.zeros((1, 8, 8, 1), np.uint8)
    image[..., 0] = np.arange(8)
    done = augmented(np.repeat(image, 100, 0), np.random.default_rng(0))[..., 0].astype(int)
    assert (done[:, :, 4] > done[:, :, 3]).all(), "brighter to the right, as before"


@pytest.mark.parametrize(("size", "pad"), [(32, 4), (8, 1), (4, 1)])
def test_augmented_images_are_flips_and_shifts_with_reflected_borders(size: int, pad: int) -> None:
    """Each is one of the 2·(2·pad + 1)² crops that slicing by hand gives, and all of these occur about evenly."""
    count = 40 * 2 * (2 * pad + 1) ** 2
    image = drawn(1, size, size, 3)[0]
    done = augmented(np.repeat(image[None], count, 0), np.random.default_rng(0))
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    expected = {}
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            crop = padded[top : top + size, left : left + size]
            expected[crop.tobytes()] = (top, left, False)
            expected[crop[:, ::-1].tobytes()] = (top, left, True)
    counts = Counter(expected[one.tobytes()] for one in done)
    assert len(counts) == len(expected) == 2 * (2 * pad + 1) ** 2
    assert min(counts.values()) > 10
    assert max(counts.values()) < 80
    flips = sum(n for (_, _, flipped), n in counts.items() if flipped)
    assert abs(flips / count - 0.5) < 4 * 0.5 / math.sqrt(count)


def test_evaluation_images_keep_the_classes_shares(digits: Images) -> None:
    batch = evaluation_images(digits, "train", 200)
    assert same(batch, evaluation_images(digits, "train", 200))
    shares = np.bincount(digits.train.labels) / len(digits.train.labels) * 200
    counts = np.bincount(batch["labels"].numpy(), minlength=10)
    assert counts.sum() == 200
    assert np.abs(counts - shares).max() <= 1
    everything = evaluation_images(digits, "tune", 10_000)
    assert torch.equal(everything["labels"], torch.from_numpy(digits.tune.labels))
    torch.testing.assert_close(
        everything["pixels"].double(), standardised(digits, digits.tune.pixels), atol=1e-6, rtol=0
    )


# References


def test_uniform_and_prior_by_hand(tmp_path: Path) -> None:
    blobs = [encoded(image) for image in drawn(300, 4, 4, 1)]
    images = read_images(str(write(tmp_path / "one.parquet", blobs, [int(n % 4 == 0) for n in range(300)])), tmp_path)
    tune, test = (evaluation_images(images, part, 100) for part in ("tune", "test"))
    scores = image_references(images, tune, test)
    share = images.train.labels.mean()  # of class 1, about a quarter
    for name, batch in (("tune", tune), ("test", test)):
        ones = batch["labels"].double().mean().item()
        assert scores[name]["uniform"] == {"loss": math.log(2), "error": 0.5}
        by_hand = -ones * math.log(share) - (1 - ones) * math.log(1 - share)
        assert scores[name]["prior"] == {"loss": pytest.approx(by_hand), "error": pytest.approx(ones)}


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
def test_linear_is_logistic_regression_at_the_penalty_best_on_tune(digits: Images) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    tune, test = (evaluation_images(digits, part, 100) for part in ("tune", "test"))
    scores = image_references(digits, tune, test)
    x = standardised(digits, digits.train.pixels).float().double().flatten(1).numpy()
    found = {}
    for strength in (1e-3, 1e-2, 1e-1):
        model = LogisticRegression(C=strength, max_iter=50).fit(x, digits.train.labels)
        found[strength] = [
            {
                "loss": log_loss(b["labels"], model.predict_proba(b["pixels"].flatten(1).double()), labels=range(10)),
                "error": 1 - model.score(b["pixels"].flatten(1).double(), b["labels"]),
            }
            for b in (tune, test)
        ]
    best = min(found.values(), key=lambda pair: pair[0]["loss"])
    for name, expected in zip(("tune", "test"), best, strict=True):
        assert scores[name]["linear"]["loss"] == pytest.approx(expected["loss"], abs=1e-3)
        assert scores[name]["linear"]["error"] == pytest.approx(expected["error"], abs=1e-9)
    assert scores["test"]["linear"]["error"] < 0.15
    assert scores["test"]["linear"]["loss"] < 0.6 < scores["test"]["prior"]["loss"]


def test_linear_knows_a_class_that_is_rarer_than_its_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = [n % 2 for n in range(400)]
    images = read_images(str(write(tmp_path / "a.parquet", BLOBS * 2, labels)), tmp_path)
    train, test_part = (Labelled(part.pixels, np.array(part.labels)) for part in (images.train, images.test))
    train.labels[-1] = test_part.labels[0] = 2  # the only one in train
    images = Images(train, images.tune, test_part, 3, images.mean, images.std, "", "")
    monkeypatch.setattr("ontogeny.training.images.LINEAR_IMAGES", 20)
    tune, test = (evaluation_images(images, part, 100) for part in ("tune", "test"))
    assert math.isfinite(image_references(images, tune, test)["test"]["linear"]["loss"])


# CIFAR-10


def test_cifar_10_is_read(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own test file, as a source without a test split; the first rows only, to be quick."""
    path = shared / "images" / "cifar10" / "test.parquet"
    name = "ontogeny.training.images.read_rows"
    monkeypatch.setattr(name, lambda source: {"train": read_rows(source)["train"][:600]})
    images = read_images(str(path), tmp_path)
    assert images.classes == 10
    assert images.train.pixels.shape[1:] == (32, 32, 3)
    assert all(100 < mean < 150 for mean in images.mean)
    batch = ImageBatches(images, 16, seed=0, augment=True)(3)
    assert batch["pixels"].shape == (16, 3, 32, 32)
