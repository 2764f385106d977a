"""Line files: what they are read into, where their errors are, and what is impossible in them."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad.cli import cli
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.line import devices
from edge_ad_runtime.line.check import check_bundle, check_line
from edge_ad_runtime.line.config import (
    CameraSection,
    LineConfig,
    MotionSection,
    OutputSection,
    RegionSection,
    TravelSection,
    TriggerSection,
    from_options,
    guard_config,
    pick_settings,
)
from edge_ad_runtime.line.devices import missing_devices, resolved, shared_wires
from edge_ad_runtime.line.drawing import draw_svg, draw_text
from edge_ad_runtime.line.key_lines import KeyPath, key_lines
from edge_ad_runtime.line.key_names import split_unit
from edge_ad_runtime.line.reading import LARGEST, SECTIONS, LineFileError, parse_line, read_line_file
from edge_ad_runtime.line.section import Problem, Section
from edge_ad_runtime.line.timeline import MARGIN_MS, Measured, timeline
from edge_ad_runtime.outputs import Timing
from edge_ad_runtime.preprocess import PreprocessSpec, Roi
from edge_ad_runtime.tracking.belt import EncodedBelt, TimedBelt
from edge_ad_runtime.tracking.picking import FramePicker
from edge_ad_runtime.tracking.pulses import Pulse, PulsePlan
from edge_ad_runtime.tracking.tracker import Eject, Settled, Tracker
from edge_ad_runtime.verdict import Verdict

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCS = Path(__file__).parents[2] / "docs" / "line.md"
FILE = Path("line.toml")
_EXAMPLES = int(os.environ.get("EDGE_AD_EXAMPLES", "60"))

TIME = """\
name = "bottles"
[camera]
source = "/dev/video0"
fps = 60
exposure_us = 2000
[trigger]
source = "gpio://gpiochip0/4"
delay_ms = 20
[travel]
mode = "time"
ms = 500
min_gap_ms = 60
belt = "gpio://gpiochip0/5"
[[output]]
url = "gpio://gpiochip0/17"
pulse_ms = 40
lead_ms = 10
"""
DISTANCE = """\
name = "caps"
[camera]
source = "/dev/video0"
fps = 100
exposure_us = 1000
[trigger]
source = "gpio://gpiochip0/4"
delay_ms = 20
[travel]
mode = "distance"
encoder = "gpio://gpiochip0/27"
mm_per_count = 0.5
mm = 300
min_gap_mm = 40
closest_mm = 30
view_from_mm = 10
view_until_mm = 60
belt_mm_per_s = 600
[[output]]
url = "gpio://gpiochip0/17"
pulse_ms = 40
lead_ms = 10
"""
FREE = """\
[camera]
source = "/dev/video0"
[travel]
mode = "time"
ms = 300
[[output]]
url = "serial:///dev/ttyUSB0"
"""


def read(text: str) -> LineConfig:
    return parse_line(text, FILE).config


def errors_of(text: str) -> list[str]:
    with pytest.raises(LineFileError) as caught:
        parse_line(text, FILE)
    return str(caught.value).splitlines()


def put(text: str, table: str, *lines: str) -> str:
    """A file with keys set in a table: replaced where they are there, otherwise added under its header."""
    header = f"[[{table}]]" if table == "output" else f"[{table}]"
    before, _, after = text.partition(header + "\n")
    body, bracket, rest = after.partition("\n[") if "\n[" in after else (after, "", "")
    for line in lines:
        key = line.partition("=")[0].strip()
        body = re.sub(rf"(?m)^{re.escape(key)} *=.*\n?", "", body)
    added = "".join(f"{line}\n" for line in lines if not line.endswith("="))
    return f"{before}{header}\n{added}{body}{bracket}{rest}"


# --- where keys stand -------------------------------------------------------------------------------------------------


def test_lines_of_keys_in_every_form_of_toml() -> None:
    text = '''\
# a = "comment"
a = 1
"quoted \\u0062.c" = 2 # [not.a.table]
'lit."eral' = """
x = 3
] [[y]] \\""" z
""""
dotted . deep."er" = 4
list = [ # comment ]
  5,
  { in = 6, "x]" = [7,
    8] },
  [9, '],"'],
]
[table]
b = """a""\\\\"""
[ table . sub ]
b = \'\'\'it's'' \'\'\'\'
[[many]]
c = 2026-01-02 03:04:05 # a date
[many.inner]
d = {}
[[many.rows]]
e = 1
[[many.rows]]
e = 2
[[many]]
c = 1\r
f.g = []
'''
    data = tomllib.loads(text)
    lines = key_lines(text)
    expected: dict[KeyPath, int] = {
        ("a",): 2,
        ("quoted b.c",): 3,
        ('lit."eral',): 4,
        ("dotted",): 8,
        ("dotted", "deep"): 8,
        ("dotted", "deep", "er"): 8,
        ("list",): 9,
        ("list", 0): 10,
        ("list", 1): 11,
        ("list", 1, "in"): 11,
        ("list", 1, "x]"): 11,
        ("list", 1, "x]", 0): 11,
        ("list", 1, "x]", 1): 12,
        ("list", 2): 13,
        ("list", 2, 0): 13,
        ("list", 2, 1): 13,
        ("table",): 15,
        ("table", "b"): 16,
        ("table", "sub"): 17,
        ("table", "sub", "b"): 18,
        ("many",): 19,
        ("many", 0): 19,
        ("many", 0, "c"): 20,
        ("many", 0, "inner"): 21,
        ("many", 0, "inner", "d"): 22,
        ("many", 0, "rows"): 23,
        ("many", 0, "rows", 0): 23,
        ("many", 0, "rows", 0, "e"): 24,
        ("many", 0, "rows", 1): 25,
        ("many", 0, "rows", 1, "e"): 26,
        ("many", 1): 27,
        ("many", 1, "c"): 28,
        ("many", 1, "f"): 29,
        ("many", 1, "f", "g"): 29,
    }
    assert lines == expected
    assert set(_paths(data)) == set(expected)


def _paths(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from _paths(item, (*path, key))


_KEYS = st.sampled_from(["a", "b-1", "c_2", "x.y", "q\"'", "", "k#", "[t]", "tab\tbed", "é"])  # fmt: skip
_VALUES = st.recursive(
    st.just(0),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=8,
)
_TREES = st.dictionaries(_KEYS, _VALUES, min_size=1, max_size=4)


class _Writer:
    """Writes a tree as TOML in a drawn style. Every leaf becomes a number of its own, so that its line can be found."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self._draw = draw
        self._leaf = 1_000_000
        self.lines: list[str] = []

    def _choose(self, *choices: Any) -> Any:
        return self._draw(st.sampled_from(choices))

    def key(self, key: str) -> str:
        if re.fullmatch(r"[A-Za-z0-9_-]+", key) and self._choose(True, False):
            return key
        if "'" not in key and "\t" not in key and self._choose(True, False):
            return f"'{key}'"
        return json.dumps(key)

    def noise(self) -> None:
        self.lines += self._choose([], [], [""], ["# x = [1, 2"], ["\t"])

    def leaf(self) -> str:
        self._leaf += 1
        form = self._choose("{}", '"[{}] # \\" "', '\'{} """ = \'', '"""{}"" \\""""', "{}.5")
        return str(form).format(self._leaf)

    def inline(self, value: Any) -> str:
        if isinstance(value, list):
            inner = ", ".join(map(self.inline, value))
            return f"[{inner}{self._choose('', ',') if value else ''}]"
        if isinstance(value, dict):
            return "{" + ", ".join(f"{self.key(k)} = {self.inline(v)}" for k, v in value.items()) + "}"
        return self.leaf()

    def table(self, tree: dict[str, Any], path: list[str]) -> None:
        later: list[tuple[str, Any]] = []
        for key, value in tree.items():
            self.noise()
            tables = isinstance(value, list) and value and all(isinstance(v, dict) for v in value)
            if (isinstance(value, dict) or tables) and self._choose(True, False):
                later.append((key, value))
            elif isinstance(value, dict) and value and self._choose(True, False):
                for inner, item in value.items():
                    blank = self._choose("", " ")
                    self.lines.append(
                        f"{self.key(key)}{blank}.{blank}{self.key(inner)} = {self.inline(item)}"
                    )
            else:
                self.lines.append(f"  {self.key(key)} ={self.inline(value)} # {{")
        for key, value in later:
            name = [*path, self.key(key)]
            if isinstance(value, dict):
                self.lines.append(f"[{' . '.join(name)}] # ]")
                self.table(value, name)
            else:
                for item in value:
                    self.lines.append(f"[[{'.'.join(name)}]]")
                    self.table(item, name)


@settings(max_examples=_EXAMPLES, deadline=None)
@given(st.data())
def test_every_value_of_any_file_is_found_on_its_line(data: st.DataObject) -> None:
    writer = _Writer(data.draw)
    writer.table(data.draw(_TREES), [])
    text = "\n".join(writer.lines) + data.draw(st.sampled_from(["", "\n"]))
    parsed = tomllib.loads(text)
    lines = key_lines(text)
    for path in _paths(parsed):
        assert path in lines
        value: Any = parsed
        for key in path:
            value = value[key]
        found = re.search(r"1\d{6}", str(value)) if not isinstance(value, (dict, list)) else None
        if found is not None:
            assert found[0] in text.split("\n")[lines[path] - 1]


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_whole_file_is_read_into_values() -> None:
    line = read(
        DISTANCE
        + """
min_off_ms = 5
safe = "off"
energise = "accept"
[[output]]
url = "serial:///dev/ttyUSB0?protocol=kmtronic&channel=2&pulse_ms=30"
[region]
x = 1
y = 2
width = 300
height = 200
[heartbeat]
url = "gpio://gpiochip0/18"
[failsafe]
missing = "pass"
fault = "pass"
unknown_at_start = "pass"
silence_ms = 2000
[records]
sinks = ["jsonl:parts.jsonl", "jsonl:-"]
[pictures]
folder = "kept"
quota_mb = 200
every_nth_pass = 100
format = "png"
[threshold]
score = 0.4
[scorer]
threads = 2
nice = 5
"""
    )
    assert line.name == "caps"
    assert (line.camera.source, line.camera.fps, line.camera.exposure_us) == ("/dev/video0", 100.0, 1000)
    assert line.region is not None
    assert line.region.roi == Roi(1, 2, 300, 200)
    first, second = (o.timing for o in line.outputs)
    assert (first.pulse_ms, first.lead_ms, first.min_off_ms) == (40, 10, 5)
    assert (first.safe, first.energise) == ("off", "accept")
    assert (second.pulse_ms, line.outputs[1].name) == (30, line.outputs[1].name)
    assert line.pictures is not None
    assert line.pictures.config.folder == Path("kept")
    assert (line.pictures.config.every_nth_pass, line.pictures.config.format) == (100, "png")
    assert line.threshold is not None
    assert line.threshold.score == 0.4
    assert (line.scorer.threads, line.scorer.nice) == (2, 5)
    assert line.records.sinks == ("jsonl:parts.jsonl", "jsonl:-")
    config = guard_config(line)
    assert config.heartbeat == "gpio://gpiochip0/18"
    assert (config.silence_ns, config.reject_unknown, config.pass_faults) == (2_000_000_000, False, True)
    assert config.track is not None
    assert (config.track.pass_missing, config.track.pass_faults) == (True, True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (put(TIME, "travel", "ms =", "s = 1.5"), "line.toml:10: travel.s: is not known; the unit is in the key's name: write ms = 1500"),
        (put(TIME, "output", "pulse_ms =", "pulse = 50"), "line.toml:15: output.pulse: is not known; the unit is in the key's name: write pulse_ms = 50 (milliseconds)"),
        ("travel_s = 1.5\n" + TIME, "line.toml:1: travel_s: is not known; the unit is in the key's name: write ms = 1500 in [travel]"),
        (put(TIME, "trigger", "debounce_us = 500"), "write debounce_ms = 0.5 (milliseconds)"),
        (put(TIME, "travel", "min_gap = 60"), "write min_gap_ms (milliseconds) or min_gap_mm (millimetres) or min_gap_counts"),
        (put(TIME, "travel", "belt_m_per_min = 30"), "write belt_mm_per_s = 500 (millimetres a second)"),
        (put(TIME, "camera", "exposure_ms = 2"), "line.toml:3: camera.exposure_ms: is not known; the unit is in the key's name: write exposure_us = 2000"),
        (put(TIME, "camera", "sorce = '1'"), "line.toml:3: camera.sorce: is not known; did you mean source?"),
        (put(TIME, "camera", "debounce_ms = 1"), "line.toml:3: camera.debounce_ms: is not known; belongs in [trigger]"),
        (put(TIME, "camera", "name = 'x'"), "line.toml:3: camera.name: is not known; belongs at the top of the file"),
        (TIME + "[fail_safe]\n", "line.toml:18: fail_safe: is no known table; did you mean [failsafe]?"),
        (TIME + "[[reject]]\n", "line.toml:18: reject: is no known table; did you mean [[output]]?"),
        (TIME.replace("[[output]]", "[output]"), "line.toml:14: output: may be given several times: write [[output]]"),
        (TIME.replace("[trigger]", "[[trigger]]"), "line.toml:6: trigger: is given more than once; write [trigger] once"),
        ("camera = 0\n", "line.toml:1: camera: must be a table: write [camera]"),
        ("name = 'x'\n", "line.toml: camera: is missing; write [camera]"),
        ("name = 'a/b'\n[camera]\nsource = '0'\n", 'line.toml:1: name: must be a text of letters, digits, ".", "_" and "-", at most 40'),
        (put(TIME, "camera", "source = 0"), 'line.toml:3: camera.source: must be a text, not 0: write source = "0"'),
        (put(TIME, "camera", "fps = '30 fps'"), "line.toml:3: camera.fps: must be a number above 0 and at most 1000, not \"30 fps\": write fps = 30, without quotes"),
        (put(TIME, "camera", "fps = nan"), "line.toml:3: camera.fps: must be a number"),
        (put(TIME, "camera", "width = 640"), "line.toml:3: camera.width: give height, too"),
        (put(TIME, "camera", "lock = 1"), "line.toml:3: camera.lock: must be true or false, not 1"),
        (put(TIME, "travel", "mode = 'Time'"), 'line.toml:10: travel.mode: must be "distance" or "time", not "Time"; did you mean "time"?'),
        (put(TIME, "travel", "ms = -1"), "line.toml:10: travel.ms: must be a number from 0 to 600000, not -1 (milliseconds)"),
        (put(TIME, "travel", "ms ="), "line.toml:9: travel.ms: is missing"),
        (put(TIME, "travel", "mode ="), 'line.toml:9: travel.mode: is missing; it is "distance" or "time"'),
        (put(TIME, "travel", "min_gap_ms ="), "line.toml:9: travel.min_gap_ms: is missing"),
        (put(TIME, "travel", "min_gap_ms = 500"), "line.toml:12: travel.ms: must be longer than the minimum gap"),
        (put(TIME, "travel", "min_gap_ms =", "min_gap_mm = 3"), "line.toml:10: travel.min_gap_mm: needs belt_mm_per_s, too; or give min_gap_ms"),
        (put(TIME, "travel", "encoder = 'gpio://gpiochip0/1'"), 'line.toml:10: travel.encoder: belongs to mode = "distance"'),
        (put(DISTANCE, "travel", "ms = 5"), 'line.toml:10: travel.ms: belongs to mode = "time"'),
        (put(DISTANCE, "travel", "encoder ="), "line.toml:9: travel.encoder: is missing"),
        (put(DISTANCE, "travel", "mm_per_count ="), "travel.mm: needs mm_per_count"),
        (put(DISTANCE, "travel", "mm ="), "line.toml:9: travel.mm: is missing; give mm or counts"),
        (put(DISTANCE, "travel", "counts = 4"), "line.toml:10: travel.counts: stands beside mm"),
        (put(DISTANCE, "travel", "belt_mm_per_s ="), "travel.belt_mm_per_s: give it (the belt's highest speed)"),
        (put(DISTANCE, "travel", "belt = 'gpio://gpiochip0/1'"), 'travel.belt: belongs to mode = "time"'),
        (put(DISTANCE, "travel", "view_until_mm ="), "travel.view_from_mm: needs view_until_mm or view_until_counts, too"),
        (put(DISTANCE, "travel", "view_until_mm = 9"), "line.toml:10: travel.view_until_mm: must be more than view_from"),
        (put(FREE, "travel", "min_gap_ms = 5"), "line.toml:4: travel.min_gap_ms: needs [trigger]"),
        (FREE + "[trigger]\nsource = 'software'\n", "line.toml:3: travel.min_gap_ms: is missing"),
        ("[camera]\nsource = '0'\n[trigger]\nsource = 'software'\n", "line.toml:3: trigger: needs [travel]"),
        (put(TIME, "trigger", "source = 'photo-eye'"), 'line.toml:7: trigger.source: must be a URL such as gpio://gpiochip0/17, "software" or "motion"'),
        (put(TIME, "trigger", "source = 'gpio://gpiochip0/4?edge=up'"), "line.toml:7: trigger.source: "),
        (put(TIME, "trigger", "motion.line = 0.5"), 'line.toml:7: trigger.motion: belongs to source = "motion"'),
        (put(TIME, "trigger", "source = 'motion'", "motion.lane = [0.8, 0.2]"), "trigger.motion.lane: must be two shares"),
        (put(TIME, "trigger", "source = 'motion'", "motion.learn = 3"), "write learn_s = 3 (seconds)"),
        (put(TIME, "output", "url = 'gpio://gpiochip0/17?pulse_ms=3'"), "line.toml:15: output.url: "),
        (put(TIME, "output", "url = 'relay1'"), "line.toml:15: output.url: "),
        (TIME + "[[output]]\nurl = 'mock://a'\nlead = 4\n", "line.toml:20: output[2].lead: is not known; the unit is in the key's name: write lead_ms = 4"),
        (TIME + "[records]\nsinks = 'jsonl:a'\n", 'line.toml:19: records.sinks: must be a list of texts, not "jsonl:a": write sinks = ["jsonl:a"]'),
        (TIME + "[records]\nsinks = ['jsonl:']\n", "line.toml:19: records.sinks: "),
        (TIME + "[pictures]\nfolder = 'a'\nquota_gb = 2\n", "line.toml:20: pictures.quota_gb: is not known; the unit is in the key's name: write quota_mb = 2000 (megabytes)"),
        ("a = \n", "line.toml:1: is not TOML: invalid value; texts stand in quotes"),
        ("[camera]\nsource = '0'\n[camera]\n", "line.toml:3: is not TOML: "),
        ("name = 'a'\nname = 'b'\n", "line.toml:2: is not TOML: cannot overwrite a value; a key or a table stands there twice"),
        ("\n\na = '''\n", "line.toml:3: is not TOML: "),
    ],
)  # fmt: skip
def test_every_error_names_line_key_and_remedy(text: str, expected: str) -> None:
    told = errors_of(text)
    assert any(expected in line for line in told), told


def test_all_errors_are_told_at_once_in_the_order_of_the_file() -> None:
    told = errors_of("[camera]\nfps = 0\nsource = 3\nsize = 4\n[travel]\ns = 1\n[[output]]\npulse = 5\n")
    places = [int(re.match(r"line\.toml:(\d+): ", line)[1]) for line in told]  # type: ignore[index]
    assert places == sorted(places)
    assert {2, 3, 4, 6, 8} <= set(places)


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "line.toml"
    with pytest.raises(LineFileError, match="cannot be read"):
        read_line_file(path)
    path.write_bytes(b"name = 'x'\nb = '\xff'\n")
    with pytest.raises(LineFileError, match=r"line\.toml:2: is not UTF-8"):
        read_line_file(path)
    path.write_bytes(b"#" * (LARGEST + 1))
    with pytest.raises(LineFileError, match="larger than 1 MB"):
        read_line_file(path)
    with pytest.raises(LineFileError):
        parse_line("x = " + "[" * 5000, path)
    path.write_bytes(b"\xef\xbb\xbf" + TIME.replace("\n", "\r\n").encode())
    file = read_line_file(path)
    assert file.config == read(TIME)
    assert file.line_of("travel.ms") == 11


def test_passwords_are_shown_nowhere() -> None:
    line = read(
        "[camera]\nsource = 'rtsp://user:hunter2@cam/x'\n[records]\nsinks = ['mqtt://u:hunter2@host/line']\n"
    )
    assert line.camera.source == "rtsp://user:hunter2@cam/x"
    assert "hunter2" not in repr(line)
    for text in (
        "[camera]\nsource = '0'\n[records]\nsinks = ['mqtt://u:hunter2@host/']\n",
        "[camera]\nsource = '0'\n[[output]]\nurl = 'modbus-tcp://u:hunter2@host/coil/1'\n",
        "[camera]\nsource = '0'\nfps = 'rtsp://user:hunter2@cam/x'\n",
    ):
        assert "hunter2" not in "\n".join(errors_of(text))


# --- what guard and picker are told ------------------------------------------------------------------------------------


def test_a_timed_line_in_nanoseconds() -> None:
    config = guard_config(read(TIME))
    assert config.outputs == ("gpio://gpiochip0/17?pulse_ms=40&lead_ms=10",)
    assert (config.trigger, config.encoder, config.belt) == ("gpio://gpiochip0/4", None, "gpio://gpiochip0/5")
    track = config.track
    assert track is not None
    assert (track.travel, track.min_gap) == (500e6, 60e6)
    assert (track.lead_ns, track.reach_ns, track.debounce_ns) == (10_000_000, 40_000_000, 5_000_000)
    assert (track.min_advance, track.view_until, track.steady_ns) == (0, None, 0)
    assert track.ahead_ns > 0


def test_lengths_become_times_on_a_timed_belt() -> None:
    line = read(put(TIME, "travel", "min_gap_ms =", "min_gap_mm = 40", "belt_mm_per_s = 500"))
    track = guard_config(line).track
    assert track is not None
    assert track.min_gap == pytest.approx(80e6)


def test_a_measured_line_in_counts() -> None:
    track = guard_config(read(DISTANCE)).track
    assert track is not None
    assert (track.travel, track.min_gap, track.min_advance) == (600, 80, 30)
    assert (track.view_from, track.view_until) == (20, 120)
    assert track.view_from_ns == 20_000_000
    # Two frame periods, and one for read-out after 1 ms of exposure.
    assert track.view_until_ns == 20_000_000 + 20_000_000 + 11_000_000
    counts = read(
        put(DISTANCE, "travel", "mm_per_count =", "mm =", "counts = 600", "min_gap_mm =", "min_gap_counts = 80",
            "closest_mm =", "closest_counts = 60", "view_from_mm =", "view_from_counts = 20", "view_until_mm =",
            "view_until_counts = 120", "belt_mm_per_s =", "belt_counts_per_s = 1200")
    )  # fmt: skip
    assert guard_config(counts).track == track


def test_lead_and_reach_are_those_of_the_outputs_that_need_most() -> None:
    line = read(TIME + "[[output]]\nurl='mock://b'\ndelay_ms=30\nlead_ms=45\npulse_ms=20\n")
    track = guard_config(line).track
    assert track is not None
    assert (track.lead_ns, track.reach_ns) == (15_000_000, 50_000_000)
    late = guard_config(read(put(TIME, "output", "delay_ms = 25"))).track
    assert late is not None
    assert (late.lead_ns, late.reach_ns) == (0, 65_000_000)


def test_without_a_trigger_the_way_counts_from_the_frame() -> None:
    config = guard_config(read(FREE))
    assert (config.track, config.travel_ns, config.trigger) == (None, 300_000_000, None)
    assert guard_config(read("[camera]\nsource='0'\n")).travel_ns == 0


@pytest.mark.parametrize("source", ["software", "motion"])
def test_the_scorer_triggers(source: str) -> None:
    line = read(put(TIME, "trigger", f"source = '{source}'"))
    config = guard_config(line)
    assert config.trigger is None
    assert config.track is not None


def test_motion_settings_are_those_of_the_detector() -> None:
    line = read(put(TIME, "trigger", "source = 'motion'", "motion.line = 0.3", "motion.lane = [0.1, 0.9]"))
    assert line.trigger is not None
    found = line.trigger.motion_settings
    assert (found.line, found.lane, found.direction) == (0.3, (0.1, 0.9), "right")
    assert MotionSection().settings == type(found)()


def test_frames_are_picked_with_what_is_known_of_the_camera() -> None:
    pick = pick_settings(read(TIME))
    period = 1e9 / 60
    assert pick.delay_ns == 20_000_000
    assert pick.latency_ns == round(2_000_000 + period)
    assert pick.within_ns == round(2 * period)
    assert pick.patience_ns == pytest.approx(pick.within_ns + pick.latency_ns + period + 100e6, abs=2)
    unknown = pick_settings(read(put(TIME, "camera", "fps =", "exposure_us =")))
    assert unknown.latency_ns == pytest.approx(2e9 / 30, abs=1)
    measured = pick_settings(read(put(TIME, "camera", "fps =", "exposure_us =")), 10.0)
    assert measured.latency_ns == 20_000_000
    given = pick_settings(
        read(put(TIME, "camera", "latency_ms = 7", "frame_within_ms = 30", "patience_ms = 200"))
    )
    assert (given.latency_ns, given.within_ns, given.patience_ns) == (7_000_000, 30_000_000, 200_000_000)


def test_settings_in_the_camera_text_count_too() -> None:
    line = read("[camera]\nsource = '0?fps=50&exposure_us=1000&width=64&height=48'\nrotate = 90\n")
    assert line.camera.period_ms == 20
    assert (line.camera.asked.width, line.camera.asked.rotate) == (64, 90)
    assert pick_settings(line).latency_ns == 21_000_000
    # A server's own keys are not ours.
    assert CameraSection(source="http://cam/x?fps=50").asked.fps is None


def test_options_make_the_same_line_as_a_file() -> None:
    made = from_options(
        "/dev/video0",
        ["gpio://gpiochip0/17?pulse_ms=40&lead_ms=10"],
        name="bottles",
        fps=60,
        trigger="gpio://gpiochip0/4",
        delay_ms=20,
        travel_ms=500,
        min_gap_ms=60,
    )
    text = put(put(TIME, "camera", "exposure_us ="), "travel", "belt =")
    assert guard_config(made) == guard_config(read(text))
    assert pick_settings(made) == pick_settings(read(text))
    simple = from_options("/dev/video0", ["mock://a?pulse_ms=50"], trigger="software", travel_ms=500)
    track = guard_config(simple).track
    assert track is not None
    assert track.min_gap == 60e6
    free = guard_config(from_options("/dev/video0", ["mock://a?delay_ms=320"]))
    assert (free.track, free.travel_ns, free.outputs) == (None, 0, ("mock://a?delay_ms=320",))
    with pytest.raises(InputError, match=r"trigger: needs \[travel\]"):
        from_options("0", trigger="software")
    with pytest.raises(InputError, match="output"):
        from_options("0", ["relay"])


def test_values_made_in_python_are_checked_too() -> None:
    with pytest.raises(InputError, match=r"camera\.fps: must be a number"):
        CameraSection(source="0", fps=float("nan"))
    with pytest.raises(InputError, match=r"travel\.min_gap_ms: belongs to mode"):
        TravelSection(mode="distance", min_gap_ms=3)
    with pytest.raises(InputError, match=r"trigger\.max_in_flight"):
        TriggerSection(source="software", max_in_flight=0)
    with pytest.raises(InputError, match=r"output\.pulse_ms"):
        OutputSection(url="mock://a", pulse_ms=0)


# --- plausibility -----------------------------------------------------------------------------------------------------


def problems(text: str, model_ms: float | None = 25.0, period_ms: float | None = None) -> list[Problem]:
    return check_line(read(text), Measured(model_ms, period_ms))


def by_key(found: list[Problem]) -> dict[str, Problem]:
    return {problem.key: problem for problem in found}


@pytest.mark.parametrize("text", [TIME, DISTANCE, FREE])
def test_good_lines_have_no_problems(text: str) -> None:
    assert problems(text) == []


STREAM = put(TIME, "camera", "source = 'rtsp://cam/1'")


@pytest.mark.parametrize(
    ("bad", "good", "key", "level", "says"),
    [
        # 20 delay + 16.67 period + 18.67 latency + 25 model + 10 margin = 90.33; 10 lead and 5 ahead.
        (put(TIME, "travel", "ms = 105"), put(TIME, "travel", "ms = 106"), "travel.ms", "error", "before the model can answer"),
        # 20 + 10 + 11 + 25 + 10 + 10 + 5 = 91 ms at 600 mm/s.
        (put(DISTANCE, "travel", "mm = 54"), put(DISTANCE, "travel", "mm = 55"), "travel.mm", "error", "before the model can answer"),
        (put(FREE, "travel", "ms = 59"), put(FREE, "travel", "ms = 60"), "travel.ms", "error", "before the model can answer"),
        (put(TIME, "travel", "min_gap_ms = 39"), put(TIME, "travel", "min_gap_ms = 40"), "travel.min_gap_ms", "error", "strike the next one; make it at least 40 ms"),
        (put(DISTANCE, "travel", "min_gap_mm = 23"), put(DISTANCE, "travel", "min_gap_mm = 25"), "travel.min_gap_mm", "error", "strike the next one"),
        (put(DISTANCE, "travel", "min_gap_mm = 24.4"), put(DISTANCE, "travel", "min_gap_mm = 24.6"), "travel.min_gap_mm", "error", "less than one count longer"),
        (put(TIME, "output", "min_off_ms = 81"), put(TIME, "output", "min_off_ms = 80"), "output.min_off_ms", "error", "at most 80 ms"),
        (put(TIME, "trigger", "debounce_ms = 60"), put(TIME, "trigger", "debounce_ms = 29"), "trigger.debounce_ms", "error", "minimum gap"),
        (put(TIME, "trigger", "debounce_ms = 30"), put(TIME, "trigger", "debounce_ms = 29"), "trigger.debounce_ms", "warning", "travel.closest_ms"),
        (put(DISTANCE, "trigger", "debounce_ms = 50"), put(DISTANCE, "trigger", "debounce_ms = 49"), "trigger.debounce_ms", "error", "smallest distance of two parts"),
        (put(TIME, "trigger", "max_in_flight = 16"), put(TIME, "trigger", "max_in_flight = 17"), "trigger.max_in_flight", "warning", "make it 17"),
        (STREAM, put(STREAM, "camera", "latency_ms = 200"), "camera.latency_ms", "error", "time of their arrival"),
        (put(TIME, "camera", "fps ="), put(TIME, "camera", "fps =", "latency_ms = 40"), "camera.fps", "warning", "30 frames a second are assumed"),
        (put(TIME, "camera", "frame_within_ms = 16"), put(TIME, "camera", "frame_within_ms = 17"), "camera.frame_within_ms", "warning", "shorter than a frame period"),
        (put(TIME, "travel", "closest_ms = 50"), put(TIME, "travel", "closest_ms = 53"), "camera", "warning", "when the next one"),
        (put(TIME, "travel", "closest_ms = 24"), put(TIME, "travel", "closest_ms = 26"), "travel.closest_ms", "warning", "the model takes 25 ms"),
        (put(DISTANCE, "travel", "mm_per_count = 11", "closest_mm = 33"), put(DISTANCE, "travel", "mm_per_count = 10"), "travel.min_gap_mm", "error", "at least 4 are needed"),
        (put(DISTANCE, "travel", "mm_per_count = 10", "closest_mm = 29"), put(DISTANCE, "travel", "mm_per_count = 9", "closest_mm = 29"), "travel.closest_mm", "error", "the encoder is dead"),
        (put(put(DISTANCE, "travel", "mm_per_count = 6"), "output", "pulse_ms = 9"), put(put(DISTANCE, "travel", "mm_per_count = 6"), "output", "pulse_ms = 11"), "travel.encoder", "warning", "coarse"),
        (put(DISTANCE, "travel", "view_from_mm =", "view_until_mm ="), DISTANCE, "travel.view_from_mm", "warning", "another place"),
        (put(DISTANCE, "travel", "view_from_mm = 13"), put(DISTANCE, "travel", "view_from_mm = 11"), "trigger.delay_ms", "error", "in view 21.67 ms after"),
        (put(DISTANCE, "travel", "view_until_mm = 30"), put(DISTANCE, "travel", "view_until_mm = 31"), "travel.view_until_mm", "error", "every part would be rejected"),
        (put(put(DISTANCE, "camera", "frame_within_ms = 500"), "travel", "view_until_mm = 320"), put(put(DISTANCE, "camera", "frame_within_ms = 450"), "travel", "view_until_mm = 320"), "camera.frame_within_ms", "error", "before its view can be checked"),
        (put(FREE, "output", "safe = 'off'"), put(FREE, "output", "safe = 'on'"), "output.safe", "warning", "without a trigger"),
        (put(FREE, "output", "url = 'mock://a?safe=off'"), put(FREE, "output", "url = 'mock://a?safe=auto'"), "output.url", "warning", "without a trigger"),
        (FREE.partition("[[output]]")[0], FREE, "output", "warning", "nothing is rejected"),
        (TIME + "[failsafe]\nmissing='pass'\n", TIME + "[failsafe]\nmissing='reject'\n", "failsafe.missing", "warning", "lets every part through"),
        (TIME + "[failsafe]\nfault='pass'\n", TIME, "failsafe.fault", "warning", "go through"),
        (TIME + "[failsafe]\nunknown_at_start='pass'\n", TIME, "failsafe.unknown_at_start", "warning", "unseen"),
        (put(TIME, "travel", "belt ="), TIME, "travel.belt", "warning", "when the belt stops"),
        (put(TIME, "trigger", "source = 'motion'", "delay_ms = 14"), put(TIME, "trigger", "source = 'motion'", "delay_ms = 15"), "trigger.delay_ms", "warning", "too short for motion"),
        (put(TIME, "camera", "width = 640", "height = 480") + "[region]\nx=1\ny=0\nwidth=640\nheight=480\n", put(TIME, "camera", "width = 640", "height = 480") + "[region]\nx=0\ny=0\nwidth=640\nheight=480\n", "region.width", "error", "reaches beyond"),
        (put(TIME, "camera", "width = 640", "height = 480", "rotate = 90") + "[region]\nx=0\ny=0\nwidth=640\nheight=480\n", put(TIME, "camera", "width = 640", "height = 480", "rotate = 90") + "[region]\nx=0\ny=0\nwidth=480\nheight=640\n", "region.width", "error", "rotated by 90"),
    ],
)  # fmt: skip
def test_implausible_lines_are_told_and_those_just_within_are_not(
    bad: str, good: str, key: str, level: str, says: str
) -> None:
    found = by_key(problems(bad))
    assert key in found, found
    assert found[key].level == level
    assert says in found[key].text
    assert key not in by_key(problems(good)) or says not in by_key(problems(good))[key].text


def test_without_a_measured_model_only_the_impossible_is_refused() -> None:
    assert "travel.ms" not in by_key(problems(put(TIME, "travel", "ms = 81"), model_ms=None))
    assert "travel.ms" in by_key(problems(put(TIME, "travel", "ms = 80"), model_ms=None))


def test_a_measured_frame_period_counts() -> None:
    assert "travel.ms" in by_key(problems(put(TIME, "travel", "ms = 120"), period_ms=40.0))
    assert "camera.fps" not in by_key(problems(put(TIME, "camera", "fps ="), period_ms=20.0))


def test_region_of_bundle_and_of_line() -> None:
    spec = PreprocessSpec(256, 256, Roi(0, 0, 300, 200))
    assert check_bundle(read(TIME), spec) == []
    region = msgspec.structs.replace(read(TIME), region=RegionSection(x=0, y=0, width=9, height=9))
    assert [p.key for p in check_bundle(region, spec)] == ["region"]
    assert check_bundle(region, PreprocessSpec(256, 256)) == []
    small = read(put(TIME, "camera", "width = 299", "height = 200"))
    assert [p.key for p in check_bundle(small, spec)] == ["camera.width"]
    assert check_bundle(read(put(TIME, "camera", "width = 300", "height = 200")), spec) == []


def test_two_devices_on_one_wire_are_refused() -> None:
    assert shared_wires(read(DISTANCE)) == []
    twice = TIME + "[[output]]\nurl = 'gpio://gpiochip0/17?active_low=1'\n"
    assert [p.key for p in shared_wires(read(twice))] == ["output[2].url"]
    eye = put(TIME, "output", "url = 'gpio://gpiochip0/4'")
    assert [p.key for p in shared_wires(read(eye))] == ["trigger.source"]
    beat = TIME + "[heartbeat]\nurl = 'gpio://gpiochip0/5'\n"
    assert [p.key for p in shared_wires(read(beat))] == ["travel.belt"]
    quadrature = put(DISTANCE, "travel", "encoder = 'gpio://gpiochip0/27?b=17'")
    assert [p.key for p in shared_wires(read(quadrature))] == ["travel.encoder"]
    port = put(
        put(TIME, "output", "url = 'serial:///dev/ttyUSB0?protocol=lcus1'"),
        "trigger",
        "source = 'serial:///dev/ttyUSB0?byte=any'",
    )
    assert [p.key for p in shared_wires(read(port))] == ["trigger.source"]
    board = (
        put(TIME, "output", "url = 'serial:///dev/ttyUSB0?channel=1'")
        + "[[output]]\nurl = 'serial:///dev/ttyUSB0?channel=2'\n"
    )
    assert shared_wires(read(board)) == []


def test_missing_devices_are_named(tmp_path: Path) -> None:
    controller, terminal = os.openpty()
    try:
        port = os.ttyname(terminal)
        here = FREE.replace("/dev/ttyUSB0", port).replace("/dev/video0", str(tmp_path))
        (tmp_path / "part.png").write_bytes(b"")
        assert missing_devices(read(here)) == []
        bus = here.replace(f"serial://{port}", f"modbus-rtu://{port}/coil/3")
        assert missing_devices(read(bus)) == []
        link = tmp_path / "by-id"
        link.symlink_to(port)
        assert resolved(f"serial://{port}") is None
    finally:
        os.close(controller)
        os.close(terminal)
    gone = FREE.replace("/dev/ttyUSB0", "/dev/edge-ad-none").replace("/dev/video0", "/dev/edge-ad-camera")
    found = by_key(missing_devices(read(gone)))
    assert set(found) == {"output.url", "camera.source"}
    assert "there is no /dev/edge-ad-none" in found["output.url"].text
    assert "there is no /dev/edge-ad-camera" in found["camera.source"].text
    chip = FREE.replace("serial:///dev/ttyUSB0", "gpio://no-such-chip/17")
    assert "no-such-chip" in by_key(missing_devices(read(chip)))["output.url"].text


def test_scarce_disks_are_told(tmp_path: Path) -> None:
    kept = f"[pictures]\nfolder = '{tmp_path}/a/b'\nmin_free_mb = "
    assert "pictures.min_free_mb" in by_key(missing_devices(read(FREE + kept + "999999999\n")))
    assert "pictures.min_free_mb" not in by_key(missing_devices(read(FREE + kept + "0\n")))
    file = tmp_path / "file"
    file.write_text("")
    assert "pictures.folder" in by_key(missing_devices(read(FREE + f"[pictures]\nfolder = '{file}'\n")))


# --- the checks hold what they promise, by the tracker and the pulses themselves ---------------------------------------


@settings(max_examples=_EXAMPLES, deadline=None)
@given(
    delay=st.integers(0, 200), fps=st.integers(5, 200), latency=st.integers(0, 100), model=st.integers(1, 200),
    beyond=st.integers(0, 20), lead=st.integers(0, 60), own_delay=st.integers(0, 40),
    phase=st.just(0.0) | st.floats(0, 0.999), encoded=st.booleans(),
)  # fmt: skip
def test_on_a_line_that_passes_the_check_every_verdict_comes_in_time(
    delay: int, fps: int, latency: int, model: int, beyond: int, lead: int, own_delay: int, phase: float, encoded: bool
) -> None:  # fmt: skip
    """The model as slow as measured, the belt as fast as it goes; with phase 0 the frame as late as it can be."""

    def described(travel: int) -> str:
        way = (
            f"mode = 'distance'\nencoder = 'gpio://gpiochip0/9'\ncounts = {travel}\nmin_gap_counts = 35\n"
            "belt_counts_per_s = 1000\n"
            if encoded
            else f"mode = 'time'\nms = {travel}\nmin_gap_ms = 35\n"
        )
        return (
            f"[camera]\nsource = '/dev/video0'\nfps = {fps}\nlatency_ms = {latency}\n[trigger]\nsource = 'software'\n"
            f"delay_ms = {delay}\n[travel]\n{way}[[output]]\nurl = 'mock://a'\npulse_ms = 20\nlead_ms = {lead}\n"
            f"delay_ms = {own_delay}\n"
        )

    # The shortest way that passes, and a little more.
    spare_ms = timeline(read(described(2000)), Measured(float(model))).spare_ms
    assert spare_ms is not None
    shortest = max(2000 - math.floor(spare_ms + 1e-6), 36)
    line = read(described(shortest + beyond))
    assert not any("before the model can answer" in p.text for p in check_line(line, Measured(float(model))))
    track = guard_config(line).track
    assert track is not None
    picker = FramePicker(pick_settings(line))
    begin = 1_000_000_000
    belt: TimedBelt | EncodedBelt = TimedBelt()
    if encoded:
        belt = EncodedBelt()
        for ms in range(10_001):
            belt.edge(ms * 1_000_000, ms)
    tracker = Tracker(track, belt)
    tracker.scorer(True)
    part, _ = tracker.trigger(begin, begin)
    assert part is not None
    assert picker.announce(part, begin) is None
    frame = begin + (delay + latency) * 1_000_000 - 1 - round(phase * 1e9 / fps)
    while picker.frame(frame)[0] is None:
        frame += round(1e9 / fps)
        if frame > begin + 5_000_000_000:
            return  # the default window is shorter than this camera's latency: the part is a fault
    verdict = frame + model * 1_000_000 + round(MARGIN_MS * 1e6)
    if encoded:
        assert isinstance(belt, EncodedBelt)
        for ms in range(1001, verdict // 1_000_000 + 1):
            belt.edge(ms * 1_000_000, ms)
    early = [a for a in tracker.advance(verdict) if isinstance(a, Eject)]
    assert early == []
    assert tracker.verdict(part, Verdict.PASS)


@settings(max_examples=_EXAMPLES, deadline=None)
@given(
    pulse=st.integers(1, 100), own_delay=st.just(0) | st.integers(0, 50), lead=st.integers(0, 300),
    more_off=st.integers(-5, 40), more_gap=st.integers(-5, 20),
    more_space=st.lists(st.just(0) | st.integers(-40, 20), min_size=2, max_size=8),
    bad=st.lists(st.booleans(), min_size=9, max_size=9),
)  # fmt: skip
def test_on_a_line_that_passes_the_check_no_good_part_that_is_told_as_passed_is_struck(
    pulse: int,
    own_delay: int,
    lead: int,
    more_off: int,
    more_gap: int,
    more_space: list[int],
    bad: list[bool],
) -> None:
    """Gaps, pauses and distances on both sides of what is just allowed."""
    gap = max(pulse + own_delay + more_gap, 1)
    min_off = max(2 * gap - pulse + more_off, 0)
    spaces = [max(gap + more, 1) for more in more_space]
    text = (
        "[camera]\nsource = '/dev/video0'\nfps = 100\n[trigger]\nsource = 'software'\ndebounce_ms = 0\n[travel]\nmode = 'time'\n"
        f"ms = 1000\nmin_gap_ms = {gap}\n[[output]]\nurl = 'mock://a'\npulse_ms = {pulse}\nlead_ms = {lead}\n"
        f"delay_ms = {own_delay}\nmin_off_ms = {min_off}\n"
    )
    line = read(text)
    if any(p.key in ("travel.min_gap_ms", "output.min_off_ms") for p in check_line(line)):
        return
    track = guard_config(line).track
    assert track is not None
    timing = line.outputs[0].timing
    tracker, plan = Tracker(track, TimedBelt()), PulsePlan(timing.min_off_ns)
    tracker.scorer(True)
    triggers = [1_000_000_000]
    for space in spaces:
        triggers.append(triggers[-1] + space * 1_000_000)
    settled: list[Settled] = []
    verdicts = {i + 1: Verdict.REJECT if bad[i] else Verdict.PASS for i in range(len(triggers))}
    driven: list[int] = []
    waiting = list(triggers)
    for now in range(1_000_000_000, triggers[-1] + 1_500_000_000, 1_000_000):
        while waiting and waiting[0] <= now:
            part, _ = tracker.trigger(waiting.pop(0), now)
            assert part is not None
            tracker.verdict(part, verdicts[part])
        for action in tracker.advance(now):
            if isinstance(action, Settled):
                settled.append(action)
            elif isinstance(action, Eject):
                on = action.at_ns + timing.delay_ns - timing.lead_ns
                plan.add(Pulse(on, on + timing.pulse_ns))
        if plan.level(now):
            driven.append(now)
    acting = {now + timing.lead_ns for now in driven}
    assert len(settled) == len(triggers)
    for fate in settled:
        if fate.verdict is Verdict.PASS:
            assert fate.due_ns not in acting
        elif fate.verdict is Verdict.REJECT:
            assert fate.due_ns + timing.delay_ns in acting
    assert plan.missed == 0


# --- the drawing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", [TIME, DISTANCE, FREE, put(TIME, "travel", "ms = 80"), "[camera]\nsource = '0'\n"]
)
def test_the_drawing_shows_the_times(text: str) -> None:
    line = read(text)
    times = timeline(line, Measured(25.0))
    drawn = draw_text(times)
    assert all(len(row) <= 132 for row in drawn.splitlines())
    columns = [max(i for i, c in enumerate(row) if c != " ") for row in drawn.splitlines()[1:]]
    assert len(set(columns)) > 1 or not line.outputs
    svg = draw_svg(times, "a <b> & c")
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "a <b> & c" in "".join(root.itertext())
    # One piece: nothing is fetched, nothing runs.
    assert not re.search(r"href|<script|<style|url\(|@import|<image", svg)
    bars = [e for e in root if e.tag.endswith("rect")][1:]
    assert bars
    assert all(float(e.attrib["x"]) >= 0 and float(e.attrib["width"]) > 0 for e in bars)


def test_times_of_one_part() -> None:
    times = timeline(read(TIME), Measured(25.0))
    assert times.frame_ms == pytest.approx(20 + 2 * 1000 / 60 + 2)
    assert times.scored_ms == pytest.approx(times.frame_ms + 25 + MARGIN_MS)
    assert (times.decided_ms, times.ejector_ms, times.next_ms) == (485, 500, 560)
    assert [(o.told_ms, o.acts_ms, o.ends_ms) for o in times.outputs] == [(490, 500, 540)]
    order = [times.in_view_ms, times.frame_ms, times.scored_ms, times.decided_ms, times.ejector_ms]
    assert all(a <= b for a, b in pairwise(order) if a is not None and b is not None)
    belt = timeline(read(DISTANCE), Measured(25.0))
    assert belt.ejector_ms == pytest.approx(500)
    assert belt.next_ms == pytest.approx(500 + 40 / 0.6)


# --- the command ------------------------------------------------------------------------------------------------------


def run_check(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["line", "check", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return 1, str(result.exception)
    return result.exit_code, result.output


def test_missing_packages_and_folders_of_records_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        '[camera]\nsource = "mock:."\n[[output]]\nurl = "modbus-tcp://plc/coil/1"\n'
        f'[records]\nsinks = ["mqtt://u:secret@h/x", "jsonl:{tmp_path}/none/parts.jsonl", "jsonl:-"]\n'
    )
    with monkeypatch.context() as bare:
        bare.setattr(devices, "find_spec", lambda _name: None)
        told = [(p.key, p.text) for p in missing_devices(read(text)) if p.key != "camera.source"]
    assert [key for key, _ in told] == ["output.url", "records.sinks", "records.sinks"]
    assert "pip install 'edge-ad[modbus]'" in told[0][1]
    assert "pip install 'edge-ad[mqtt]'" in told[1][1]
    assert "secret" not in told[1][1]
    assert f"there is no folder {tmp_path}/none; make it" in told[2][1]
    assert "output.url" not in by_key(missing_devices(read(text)))


def test_check_says_at_which_speeds_parts_are_in_view(tmp_path: Path) -> None:
    file = tmp_path / "line.toml"
    file.write_text(
        '[camera]\nsource = "0"\nfps = 100\nlatency_ms = 10\nframe_within_ms = 20\n'
        '[trigger]\nsource = "gpio://gpiochip0/1"\ndelay_ms = 20\n'
        '[travel]\nmode = "distance"\nencoder = "gpio://gpiochip0/2"\nmm_per_count = 0.5\nmm = 420\nmin_gap_mm = 50\n'
        "belt_mm_per_s = 800\nview_from_mm = 8\nview_until_mm = 50\n"
        '[[output]]\nurl = "mock://ejector"\npulse_ms = 35\n'
    )
    code, text = run_check(str(file), "--no-devices")
    assert code == 0, text
    assert (
        "8 to 50 mm behind the trigger; parts are there for their frames from 400 mm/s on, up to 1000 mm/s"
        in text
    )


def test_a_drawing_for_a_folder_that_is_not_there_is_refused_before_anything_else(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["line", "check", "none.toml", "--svg", str(tmp_path / "no" / "x.svg")])
    assert isinstance(result.exception, InputError)
    assert f"there is no folder {tmp_path}/no" in str(result.exception)


def test_check_prints_what_it_understood(tmp_path: Path, tiny_bundle: Path) -> None:
    path = tmp_path / "line.toml"
    path.write_text(DISTANCE + "[records]\nsinks = ['mqtt://u:hunter2@host/line']\n")
    svg = tmp_path / "line.svg"
    code, text = run_check(str(path), "--no-devices", "--bundle", str(tiny_bundle), "--svg", str(svg))
    assert code == 0, text
    for part in (
        "caps",
        "/dev/video0",
        "gpio://gpiochip0/4",
        "600 counts (300 mm",
        "tiny",
        "spare",
        "no errors",
    ):
        assert part in text
    assert "hunter2" not in text
    ET.fromstring(svg.read_text())


def test_check_ends_with_1_and_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "line.toml"
    path.write_text(put(TIME, "travel", "ms = 70"))
    code, text = run_check(str(path), "--no-devices")
    assert code == 1
    assert f"{path}:10: travel.ms: the ejector is reached before the model can answer" in text
    code, text = run_check(str(path), "--no-devices", "--json")
    told = json.loads(text)
    assert (code, told["ok"]) == (1, False)
    assert [(p["key"], p["line"], p["level"]) for p in told["problems"]] == [("travel.ms", 10, "error")]
    assert told["spare_ms"] < 0
    assert told["timeline"]["decided_ms"] == 55
    path.write_text("[camera]\nsorce = 1\n")
    code, text = run_check(str(path), "--json")
    assert code == 1
    assert ("camera.sorce", 2) in [(p["key"], p["line"]) for p in json.loads(text)["problems"]]
    code, text = run_check(str(path))
    assert code == 1
    assert f"{path}:2: camera.sorce" in text
    assert run_check(str(tmp_path / "none.toml"))[0] == 1


# --- the documentation ------------------------------------------------------------------------------------------------


def test_the_encoder_line_of_the_documentation_works_on_a_belt_that_stops(tmp_path: Path) -> None:
    """With the view that the file gives: where the simulated camera saw another stretch, parts escaped."""
    text = DOCS.read_text(encoding="utf-8")
    path = tmp_path / "caps.toml"
    path.write_text(next(t for t in re.findall(r"```toml\n(.*?)```", text, re.DOTALL) if "encoder" in t))
    for faults in ("none", "stop"):
        result = CliRunner().invoke(
            cli, ["simulate", "--line", str(path), "--parts", "3000", "--faults", faults, "--json"]
        )
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        assert (found["escapes"], found["wrong_hits"]) == (0, 0)
        assert found["fault_rejects"] < 150, "the camera sees parts at all speeds of the belt"


def documented() -> dict[str, dict[str, str]]:
    """Table -> key -> default, from the tables of keys in docs/line.md."""
    found: dict[str, dict[str, str]] = {}
    table = ""
    for line in DOCS.read_text(encoding="utf-8").splitlines():
        if heading := re.match(r"#+ `(?:\[\[?([a-z.]+)\]\]?)`", line):
            table = heading[1]
        elif row := re.match(r"\| `([a-z_]+)` \| ([^|]*) \| ([^|]*) \|", line):
            found.setdefault(table, {})[row[1]] = row[2].strip()
    return found


def test_the_documentation_has_every_key_with_its_default() -> None:
    sections: dict[str, type[Section]] = {**SECTIONS, MotionSection.table: MotionSection}
    shown = documented()
    assert set(shown) == set(sections)
    for table, section in sections.items():
        fields = {f.name: f for f in msgspec.structs.fields(section) if f.name != "motion"}
        assert set(shown[table]) == set(fields), table
        for name, field in fields.items():
            default = getattr(Timing(), name) if table == "output" and name != "url" else field.default
            if isinstance(default, float) and default.is_integer():
                default = int(default)
            elif isinstance(default, tuple):
                default = [int(share) for share in default]
            if field.required:
                assert shown[table][name] == "required", (table, name)
            elif default is None:
                assert not shown[table][name].startswith("`"), (table, name)
            else:
                assert shown[table][name] == f"`{json.dumps(default)}`", (table, name)


def test_the_examples_of_the_documentation_work() -> None:
    examples = re.findall(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    whole = [text for text in examples if "[camera]" in text]
    assert len(whole) >= 3
    for text in whole:
        line = read(text)
        assert [p for p in check_line(line, Measured(40.0)) if p.level == "error"] == []
        assert shared_wires(line) == []
        guard_config(line)
    kinds = {read(text).travel.mode if read(text).trigger else "free" for text in whole}  # type: ignore[union-attr]
    assert kinds == {"time", "distance", "free"}


def test_units_are_told_apart() -> None:
    assert split_unit("belt_mm_per_s") == ("belt", "mm_per_s", "speed")
    assert split_unit("ms") == ("", "ms", "time")
    assert split_unit("threads") == ("threads", "", "")
