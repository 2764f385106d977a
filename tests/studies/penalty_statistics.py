"""Statistics of the generated penalty images beside those of natural images.

    python -m tests.studies.penalty_statistics IMAGES [--count 500] [--kinds] [--sheet FILE.png]

IMAGES is a folder of natural images; one half is the reference, the other the floor. One row per set:
pixel statistics, and how the shipped `n` teacher's features of the set agree with the reference's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from edge_ad.nets.model import normalize, to_tensor
from edge_ad.teacher import find_teacher, load_teacher
from edge_ad.training.generated import KINDS, generated_image, photograph
from edge_ad_runtime.images import list_images, read_image
from edge_ad_runtime.preprocess import resize
from edge_ad_runtime.types import Image

SIZE = 256
# Descriptors taken from an image, a side of the grid.
GRID = 8
Features = npt.NDArray[np.float64]


def natural_images(folder: Path, count: int) -> list[Image]:
    """Up to ``count`` pictures, ``SIZE`` px a side, evenly out of the folder.

    Every other one is cut from its middle as it is, the rest as the paper does: resized to twice ``SIZE`` first.
    """
    paths = list_images(folder)
    count = min(count, len(paths))
    images = []
    for i in range(count):
        image = read_image(paths[i * len(paths) // count])
        side = 2 * SIZE if i % 2 else None
        if side or min(image.shape[:2]) < SIZE:
            image = resize(image, side or SIZE, side or SIZE)
        top, left = ((n - SIZE) // 2 for n in image.shape[:2])
        images.append(np.ascontiguousarray(image[top : top + SIZE, left : left + SIZE]))
    return images


def slope(image: Image) -> float:
    """The exponent a of the amplitude spectrum ``f ** a``, between 3 and 64 cycles per picture."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64)
    window = np.hanning(SIZE)
    amplitude = np.abs(np.fft.rfft2((grey - grey.mean()) * window[:, None] * window))
    radius = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)) * SIZE
    band = (radius >= 3) & (radius < 64)
    octave = np.log2(radius[band] / 3)
    bins = (octave * 3).astype(int)
    means = np.bincount(bins, amplitude[band]) / np.bincount(bins)
    centres = np.bincount(bins, octave) / np.bincount(bins)
    return float(np.polyfit(centres, np.log2(means + 1e-9), 1)[0])


def gradient_kurtosis(image: Image) -> float:
    """Kurtosis of the horizontal differences of log intensity; 3 for Gaussian noise."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64)
    step = np.diff(np.log(grey + 4), axis=1)
    return float(((step - step.mean()) ** 4).mean() / max(step.var() ** 2, 1e-12))


def channel_correlation(image: Image) -> float:
    """Mean correlation of the three pairs of channels."""
    pixels = image.reshape(-1, 3).astype(np.float64)
    matrix = np.corrcoef(pixels.T + np.random.default_rng(0).normal(0, 0.1, (3, len(pixels))))
    return float((matrix.sum() - 3) / 6)


def contrast(image: Image) -> float:
    """Deviation of the grey values, of 0 to 1."""
    return float(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).std() / 255)


def saturation(image: Image) -> float:
    """Mean of the largest less the smallest channel, of 0 to 1."""
    return float((image.max(2).astype(int) - image.min(2)).mean() / 255)


def brightness(image: Image) -> float:
    """Mean value, of 0 to 1."""
    return float(image.mean() / 255)


PIXEL_STATISTICS = {
    "slope": slope,
    "kurtosis": gradient_kurtosis,
    "channel corr.": channel_correlation,
    "contrast": contrast,
    "saturation": saturation,
    "brightness": brightness,
}


class TeacherFeatures:
    """Descriptors of the shipped `n` teacher."""

    def __init__(self) -> None:
        self._teacher, _, _ = load_teacher(find_teacher("n", None)[0])

    def __call__(self, images: Sequence[Image]) -> Features:
        """``GRID ** 2`` descriptors of each image, ``float64 N x 64``."""
        parts = []
        with torch.inference_mode():
            for start in range(0, len(images), 8):
                batch = normalize(to_tensor(np.stack(images[start : start + 8])))
                maps = self._teacher(batch.contiguous(memory_format=torch.channels_last))
                at = torch.linspace(2, maps.shape[2] - 3, GRID).long()
                parts.append(maps[:, :, at][:, :, :, at].permute(0, 2, 3, 1).reshape(-1, maps.shape[1]))
        return torch.cat(parts).double().numpy()


def frechet(a: Features, b: Features) -> float:
    """Squared Fréchet distance of the normal distributions fitted to two sets of descriptors."""
    ca, cb = np.cov(a.T), np.cov(b.T)
    values, vectors = np.linalg.eigh(ca)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cb @ root).clip(0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * cross)


def nearest(queries: Features, among: Features) -> npt.NDArray[np.float64]:
    """Distance of each query to its nearest neighbour."""
    base = torch.from_numpy(among).float()
    parts = [torch.cdist(q, base).min(1).values for q in torch.split(torch.from_numpy(queries).float(), 500)]
    return torch.cat(parts).double().numpy()


def halves(images: Sequence[Image]) -> tuple[list[Image], list[Image]]:
    """Two halves with as many pictures of either cut of :func:`natural_images`."""
    return [*images[0::4], *images[1::4]], [*images[2::4], *images[3::4]]


class Reference:
    """What natural images give: the descriptors of one half, and of the other half as queries."""

    def __init__(self, images: Sequence[Image], features: TeacherFeatures) -> None:
        first, second = (features(half) for half in halves(images))
        self.scale = first.std(0)
        self.first, self.second = first / self.scale, second / self.scale
        self._queries = self.second[::16]
        self._known = nearest(self._queries, self.first)

    def floor(self) -> dict[str, float]:
        """What :meth:`compare` gives for the second half of the natural images."""
        return self._agreement(self.second, self._known)

    def compare(self, scaled: Features) -> dict[str, float]:
        """Of descriptors divided by ``scale``: agreement with those of the first half.

        ``mean`` and ``std``: root mean square difference of the channels' means and of the logarithms of
        their deviations; ``frechet``: squared distance; ``reach``: median distance from the second half's
        descriptors to their nearest neighbours, over the same distance in the first half; ``far``: the
        share of them that is further away than 95 % of the second half is from the first.
        """
        return self._agreement(scaled, nearest(self._queries, scaled))

    def _agreement(self, scaled: Features, distance: npt.NDArray[np.float64]) -> dict[str, float]:
        return {
            "mean": float(np.sqrt(((scaled.mean(0) - self.first.mean(0)) ** 2).mean())),
            "std": float(np.sqrt((np.log(scaled.std(0) / self.first.std(0)) ** 2).mean())),
            "frechet": frechet(scaled, self.first),
            "reach": float(np.median(distance) / np.median(self._known)),
            "far": float((distance > np.quantile(self._known, 0.95)).mean()),
        }


def row(name: str, images: Sequence[Image], agreement: dict[str, float]) -> str:
    """A row of the table: mean and deviation of the pixel statistics, then the agreement of the descriptors."""
    parts = [name]
    for statistic in PIXEL_STATISTICS.values():
        values = np.array([statistic(image) for image in images])
        parts.append(
            f"{np.median(values):.1f}" if statistic is gradient_kurtosis
            else f"{values.mean():.2f} ± {values.std():.2f}"
        )  # fmt: skip
    parts += [f"{value:.2f}" for value in agreement.values()]
    return f"| {' | '.join(parts)} |"


def head() -> str:
    columns = ["set", *PIXEL_STATISTICS, "mean", "std", "Fréchet", "reach", "far"]
    return f"| {' | '.join(columns)} |\n" + "|---" * len(columns) + "|"


def sheet(images: Sequence[Image], columns: int) -> Image:
    """The images side by side, with gaps."""
    framed = [np.pad(image, ((2, 2), (2, 2), (0, 0))) for image in images]
    rows = [np.hstack(framed[i : i + columns]) for i in range(0, len(framed), columns)]
    return np.asarray(np.vstack(rows), np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument("--count", type=int, default=500, help="images in each set")
    parser.add_argument("--kinds", action="store_true", help="a row for each kind too")
    parser.add_argument("--sheet", type=Path, help="write 6 x 8 generated images to this PNG")
    options = parser.parse_args()
    if options.sheet:
        samples = sheet([generated_image(0, i, SIZE, SIZE) for i in range(48)], 8)
        if not cv2.imwrite(str(options.sheet), samples[..., ::-1]):
            parser.error(f"{options.sheet}: cannot be written")
    features = TeacherFeatures()
    natural = natural_images(options.images, 2 * options.count)
    reference = Reference(natural, features)
    print(head())
    print(row("natural, other half", halves(natural)[1], reference.floor()), flush=True)
    start = time.process_time()
    sets = {"generated": [generated_image(0, i, SIZE, SIZE) for i in range(options.count)]}
    each = (time.process_time() - start) / options.count
    if options.kinds:
        for kind in KINDS:
            generators = [np.random.default_rng((1, i)) for i in range(options.count)]
            sets[kind.name] = [photograph(rng, kind.draw(rng, SIZE, SIZE)) for rng in generators]
    noise = np.random.default_rng(0).integers(0, 256, (min(options.count, 50), SIZE, SIZE, 3), dtype=np.uint8)
    sets["white noise"] = list(noise)
    for name, images in sets.items():
        print(row(name, images, reference.compare(features(images) / reference.scale)), flush=True)
    print(f"\n{1000 * each:.1f} ms of processor time for a generated image of {SIZE}x{SIZE} px")


if __name__ == "__main__":
    main()
