"""What ``edge-ad run`` does before it starts: is the camera as it was at the calibration?"""

from __future__ import annotations

from collections.abc import Callable

from edge_ad_runtime.calibration import Calibration
from edge_ad_runtime.camera_state import automatic
from edge_ad_runtime.cameras import CameraSource
from edge_ad_runtime.cameras.adjusted import CameraStateError, StatefulSource, check_state
from edge_ad_runtime.errors import CameraError


def check_camera(
    source: CameraSource, calibration: Calibration, say: Callable[[str], None], *, allow_change: bool = False
) -> CameraSource:
    """Compare the camera with what was recorded with the calibration; returns the source to run with.

    That source compares again whenever it is reopened: a camera that comes back in another state gives faults, not
    verdicts. A camera that is away is not waited for; it is compared when it comes. Where the calibration has no state
    of a camera, or the source is no device, nothing is opened and the source is returned as it is.

    Args:
        say: is told what differs, with ``allow_change``, and what the camera still sets by itself.
        allow_change: differences are told, and the camera is used all the same.

    Raises:
        CameraStateError: the camera differs, and ``allow_change`` is not set.
    """
    recorded = calibration.camera
    if recorded is None or not isinstance(source, StatefulSource):
        return source
    if on := automatic(recorded):
        say(f"warning: at the calibration {' and '.join(on)}: scores move with it; lock it and recalibrate")
    try:
        differences = check_state(source, recorded)
    except CameraError as error:
        say(f"warning: the camera could not be compared with the calibration yet: {error}")
        differences = []
    if not differences:
        return source if allow_change else source.expecting(recorded)
    if not allow_change:
        raise CameraStateError(differences)
    for difference in differences:
        say(f"warning: {difference}")
    return source
