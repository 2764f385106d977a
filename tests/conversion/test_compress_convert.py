"""``edge-ad convert --compress``: the choice, its gate, and what the bundle and its report say of it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from edge_ad.cli.convert import command
from edge_ad.cli.info import command as info_command
from edge_ad.conversion import ConvertOptions, choose_images
from edge_ad.conversion import compress as module
from edge_ad.conversion import compression_images as compression_images_module
from edge_ad.conversion.compress import compress
from edge_ad.conversion.compression_images import FOREIGN_IMAGES, compression_images
from edge_ad.conversion.damage import MAX_LOST, Damage
from edge_ad.conversion.measure import MeasuredOn, Measurement, broken_limits
from edge_ad.conversion.timing import EngineTime, time_engines
from edge_ad.data import read_dataset
from edge_ad.describe import describe
from edge_ad.report.model import Side
from edge_ad.run_folder import open_run
from edge_ad_converters.compress import full_shape, ladder, shape_for, shape_gmac
from edge_ad_converters.parity import Parity
from edge_ad_converters.stress import stress_images
from edge_ad_runtime.bundle import open_bundle
from edge_ad_runtime.calibration import Quantiles
from edge_ad_runtime.engines import RawMaps
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.inspector import Inspector
from edge_ad_runtime.types import Image
from tests.conversion.conftest import convert_words

# The choice, with figures made up


SIDE = Side(
    engine="",
    precision="",
    calibrated_threshold=1.0,
    quantiles=Quantiles(0.0, 1.0, 0.0, 1.0),
    image_auroc=0.9,
)


def measurement(lost: float | None = None) -> Measurement:
    on = MeasuredOn("", (Path("a.png"),), ("good",), None)
    return Measurement(on, SIDE, SIDE, Parity((), 1.0, 1.0, 1.0), 1.0, (), (), lost)


@dataclass
class Bench:
    """Stands in for the builder: graphs are known by their GMAC, and so is what each of them breaks."""

    options: ConvertOptions
    breaks_in_float: Sequence[float] = ()
    breaks_in_the_end: Sequence[float] = ()
    built: list[tuple[float, bool]] = field(default_factory=list)
    runs_per_image: int = 1

    def measure_float(self, graphs: Any, _: Damage) -> tuple[Measurement, tuple[str, ...]]:
        return measurement(0.01), ("in float",) if graphs.gmac in self.breaks_in_float else ()

    def build(self, graphs: Any, *, damage: Damage | None = None, mend: bool = True) -> Any:
        self.built.append((graphs.gmac, mend))
        broken = ("in the end",) if graphs.gmac in self.breaks_in_the_end else ()
        return SimpleNamespace(
            graphs=graphs, measurement=measurement(), broken=broken, model=self.as_fast(graphs)
        )

    def as_fast(self, graphs: Any) -> Any:
        return SimpleNamespace(engine=graphs.gmac)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def trials(_: Any, bench: Bench, damage: Any) -> list[module.Trial]:
        shapes = [3.0, 2.0, 1.0] if bench.options.compress == "auto" else [2.0]
        graphs: list[Any] = [SimpleNamespace(gmac=s, parameters=7) for s in shapes]
        return [module.Trial(f"to {g.gmac}", g, *bench.measure_float(g, damage)) for g in graphs]

    def times(full: Any, trials: Sequence[module.Trial], *_: Any) -> list[EngineTime]:
        return [EngineTime(g, g / 4) for g in (4.0, *(t.graphs.gmac for t in trials))]

    monkeypatch.setattr(module, "_trials", trials)
    monkeypatch.setattr(module, "_damage", lambda _: None)
    monkeypatch.setattr(module, "_times", times)


FULL: Any = SimpleNamespace(gmac=4.0, parameters=9)


def run(bench: Bench) -> module.Compressed:
    return compress(None, FULL, bench)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("in_float", "in_the_end", "chosen", "built"),
    [
        ((), (), 1.0, [(1.0, False)]),
        ((1.0,), (), 2.0, [(2.0, False)]),
        ((), (1.0,), 2.0, [(1.0, False), (2.0, False)]),
        ((2.0,), (1.0,), 3.0, [(1.0, False), (3.0, False)]),
        # The nets as they are may keep layers in float, as without compression.
        ((1.0, 2.0, 3.0), (), 4.0, [(4.0, True)]),
        ((3.0,), (1.0, 2.0), 4.0, [(1.0, False), (2.0, False), (4.0, True)]),
    ],
)
def test_auto_takes_the_cheapest_that_passes_in_its_final_form(
    made_up: None,
    in_float: Sequence[float],
    in_the_end: Sequence[float],
    chosen: float,
    built: list[tuple[float, bool]],
) -> None:
    bench = Bench(ConvertOptions(compress="auto"), in_float, in_the_end)
    result = run(bench)
    assert result.built.graphs.gmac == chosen == result.record.chosen.gmac
    assert bench.built == built
    assert [c.gmac for c in result.record.candidates] == [1.0, 2.0, 3.0]
    for c in result.record.candidates:
        assert bool(c.broken) == (c.gmac in in_float)
        assert c.share == c.latency_ratio == c.gmac / 4
        if (c.gmac, False) in built:
            assert bool(c.target_broken) == (c.gmac in in_the_end)
        else:
            assert c.target_broken is None
    assert bool(result.warnings) == (chosen == 4.0)
    assert all("each of the 3 compressed forms breaks a limit" in w for w in result.warnings)


def test_a_share_is_refused_before_the_long_work_unless_forced(made_up: None) -> None:
    bench = Bench(ConvertOptions(compress=0.5), (2.0,), ())
    with pytest.raises(InputError, match=r"breaks a limit in float already: in float.*--compress auto"):
        run(bench)
    assert not bench.built
    forced = run(Bench(ConvertOptions(compress=0.5, force=True), (2.0,), (2.0,)))
    assert forced.record.chosen.gmac == 2.0 and forced.record.asked == "0.5"
    assert forced.record.chosen.target_broken == ("in the end",)
    # What breaks in the end is the caller's to refuse, as without compression.
    assert run(Bench(ConvertOptions(compress=0.5), (), (2.0,))).built.broken == ("in the end",)


# Damage


class Scaled:
    """An engine whose maps are the image's brightness, multiplied."""

    name = "scaled"

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def run(self, batch: Image) -> RawMaps:
        bright = (batch[0].astype(np.float32).mean(2) / 255) ** 4 * self.factor
        return RawMaps(bright, bright)


def test_damage_that_no_longer_stands_out_is_counted_and_breaks_a_limit() -> None:
    rng = np.random.default_rng(0)
    good = [rng.integers(90, 110, (1, 64, 64, 3), np.uint8) for _ in range(4)]
    damage = Damage(Scaled(1), good, 3)
    assert damage.lost(Scaled(1)) == damage.lost(Scaled(0.9)) == 0
    assert damage.lost(Scaled(0)) == 1
    # White squares lie far above, so some cells survive; most of the noise's do not.
    assert MAX_LOST < damage.lost(Scaled(0.1)) < 1
    for lost, broken in ((None, 0), (0.0, 0), (MAX_LOST, 0), (MAX_LOST + 0.01, 1), (float("nan"), 1)):
        found = broken_limits(measurement(lost), ConvertOptions())
        assert len(found) == broken and all("damage made stand out" in text for text in found)


# Time


def test_engines_take_turns() -> None:
    order: list[int] = []

    class Counting:
        name = "counting"

        def __init__(self, number: int) -> None:
            self.number = number

        def run(self, batch: Image) -> RawMaps:
            order.append(self.number)
            return RawMaps(np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32))

    found = time_engines([Counting(0), Counting(1), Counting(2)], np.zeros((1, 4, 4, 3), np.uint8), rounds=4)
    assert [set(order[i : i + 3]) for i in range(0, 18, 3)] == [{0, 1, 2}] * 6
    assert [order[i] for i in range(0, 18, 3)] == [0, 1, 2, 0, 1, 2]
    assert len(found) == 3 and found[0].ratio == 1 and all(f.ms > 0 for f in found)


# What is fitted on


def test_no_test_image_is_fitted_on_and_missing_penalty_images_are_generated(
    short_run: Path, few: Path, parts: Path, tmp_path: Path
) -> None:
    run = open_run(short_run)
    dataset = read_dataset(parts)
    sets = choose_images(run, few, dataset, seed=42)
    assert not {i.path for i in dataset.test} & set(sets.ranges)
    gone = msgspec.structs.replace(run.config, penalty=str(tmp_path / "gone"))
    unset, generated = (msgspec.structs.replace(run.config, penalty=p) for p in (None, "generated"))
    found = [compression_images(sets, c, 42) for c in (gone, unset, generated)]
    for images in found:
        assert len(images.good) == len(images.damaged) == 3 and len(images.foreign) == FOREIGN_IMAGES
        assert len({i.tobytes() for i in images.foreign}) == FOREIGN_IMAGES
        assert {i.shape for i in (*images.good, *images.damaged, *images.foreign)} == {(1, 256, 256, 3)}
        assert all(np.array_equal(a, b) for a, b in zip(images.foreign, found[0].foreign, strict=True))
    assert all(
        np.array_equal(a, b) for a, b in zip(found[0].damaged, stress_images(found[0].good, 42), strict=True)
    )


def test_penalty_images_of_a_folder_are_those(short_run: Path, few: Path, parts: Path) -> None:
    run = open_run(short_run)
    sets = choose_images(run, few, read_dataset(parts), seed=42)
    own = msgspec.structs.replace(run.config, penalty=str(parts / "train" / "good"))
    # Noisy grey parts, unlike anything generated.
    assert all(100 < i.mean() < 150 and i.std() < 30 for i in compression_images(sets, own, 42).foreign)


def test_the_share_in_the_report_gives_the_same_shape_again(short_run: Path) -> None:
    nets = describe(open_run(short_run).nets)
    shares = 0.5 ** torch.arange(1, 65)
    energy = (shares, shares)
    whole = shape_gmac(nets, full_shape(nets))
    shape = ladder(nets, energy)[-2]
    share = math.ceil(shape_gmac(nets, shape) / whole * 1000) / 1000
    assert shape_for(nets, share, energy) == shape


# The command


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--compress", "0"], "neither auto nor a share"),
        (["--compress", "1.2"], "neither auto nor a share"),
        (["--compress", "nan"], "neither auto nor a share"),
        (["--compress", "a quarter"], "neither auto nor a share"),
        (["--compress-steps", "5"], "goes with --compress"),
        (["--compress", "auto", "--compress-steps", "-1"], "--compress-steps"),
    ],
)
def test_wrong_usage(short_run: Path, tmp_path: Path, words: list[str], said: str) -> None:
    done = CliRunner().invoke(command, [str(short_run), "-o", str(tmp_path / "a.edgead"), *words])
    assert done.exit_code == 2 and said in done.output
    assert not list(tmp_path.iterdir())


def test_a_compressed_bundle_says_so_everywhere(
    quick: None, short_run: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TIMING_ROUNDS", 2)
    monkeypatch.setattr(compression_images_module, "FOREIGN_IMAGES", 3)
    out = tmp_path / "part.edgead"
    words = convert_words(
        short_run, out, few, "--compress", "0.6", "--compress-steps", "0", "--force", "--json"
    )
    done = CliRunner().invoke(command, words)
    assert done.exit_code == 0, done.output
    bundle, report = open_bundle(out), json.loads(done.stdout)
    assert bundle.report == report
    found = report["compression"]
    (chosen,) = found["candidates"]
    assert found["asked"] == "0.6" and chosen["chosen"] and not found["uncompressed"]["chosen"]
    assert bundle.manifest.gmac == report["gmac"] == chosen["gmac"]
    assert chosen["share"] == pytest.approx(chosen["gmac"] / found["uncompressed"]["gmac"])
    assert chosen["share"] <= 0.6
    assert chosen["parameters"] < found["uncompressed"]["parameters"]
    assert chosen["latency_ms"] > 0 and found["uncompressed"]["latency_ratio"] == 1
    # The reference is the uncompressed model.
    assert found["uncompressed"]["image_auroc"] == report["float"]["image_auroc"]
    assert report["precisions"][0]["precision"] == "fp32"
    assert 0 <= report["lost"] <= 1 and 0 <= chosen["lost"] <= 1
    assert report["limits"]["passed"] == (not chosen["target_broken"])
    assert report["limits"]["broken"] == chosen["target_broken"]
    said = bundle.manifest.provenance["compressed"]
    assert said.startswith(chosen["label"]) and "--compress 0.6" in said
    for page in bundle.documents.values():
        assert b"Compression" in page and b"worst kind" in page
    info = CliRunner().invoke(info_command, [str(out)])
    assert info.exit_code == 0 and said in info.output
    Inspector(bundle, threads=1).self_test()
