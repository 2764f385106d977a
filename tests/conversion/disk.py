"""A bundle is written again to a place where files may not grow: python disk.py BUNDLE OUT BYTES

The limit is the kernel's (RLIMIT_FSIZE): it lets so many bytes be written and then refuses, as a full disk does.
"""

from __future__ import annotations

import resource
import signal
import sys
from pathlib import Path

from edge_ad_runtime.bundle import open_bundle, write_bundle
from edge_ad_runtime.calibration import encode_calibration


def write_again(bundle: Path, out: Path, limit: int) -> None:
    opened = open_bundle(bundle)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    write_bundle(
        out, opened.manifest, opened.model, encode_calibration(opened.calibration), opened.golden,
        opened.report, opened.documents,
    )  # fmt: skip


if __name__ == "__main__":
    try:
        write_again(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
    except OSError as error:
        sys.exit(f"refused: {error}")
