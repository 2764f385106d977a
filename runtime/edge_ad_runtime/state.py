"""The one writable folder of a device."""

from __future__ import annotations

import os
from pathlib import Path

from edge_ad_runtime.errors import InputError


def default_state_dir() -> Path:
    """``$EDGE_AD_STATE``, else ``$XDG_STATE_HOME/edge-ad``, else ``~/.local/state/edge-ad``.

    Field calibrations lie there, and what an engine keeps between two starts.

    Raises:
        InputError: no variable is set and the user has no home folder.
    """
    if chosen := os.environ.get("EDGE_AD_STATE"):
        return Path(chosen)
    # The XDG base directory specification tells programs to ignore relative paths.
    if (xdg := Path(os.environ.get("XDG_STATE_HOME", ""))).is_absolute():
        return xdg / "edge-ad"
    try:
        return Path.home() / ".local" / "state" / "edge-ad"
    except RuntimeError as error:
        raise InputError(
            "this user has no home folder to keep calibrations in; set EDGE_AD_STATE to a writable folder"
        ) from error
