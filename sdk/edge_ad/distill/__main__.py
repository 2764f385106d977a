"""``torchrun --nproc-per-node N -m edge_ad.distill …``: the verb ``edge-ad distill`` as a module."""

from __future__ import annotations

import sys

from edge_ad.cli import main

main(["distill", *sys.argv[1:]])
