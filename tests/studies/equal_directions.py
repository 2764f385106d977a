"""``edge-ad train --directions`` with directions that count alike: what their energy is worth.

    python -m tests.studies.equal_directions train DATA -o RUN --directions R …

Each direction is divided by the root of its second moment over training and penalty images, as a whitening
does. Beside other variants: ``python -m tests.studies.training … --variant "equal:
@tests.studies.equal_directions --directions 16"``.
"""

from __future__ import annotations

import math

from torch import Tensor

from edge_ad.cli import main
from edge_ad.training import directions as module
from edge_ad.training.directions import leading_directions


def equal_directions(moments: Tensor, directions: float) -> tuple[Tensor, float]:
    """As :func:`edge_ad.training.directions.leading_directions`, with a second moment of 1 each after folding."""
    basis, energy = leading_directions(moments, directions)
    count, channels = basis.shape
    deviation = (basis @ moments * basis).sum(1, keepdim=True).sqrt()
    # The folding multiplies by sqrt(R / C).
    return basis / deviation * math.sqrt(channels / count), energy


if __name__ == "__main__":
    module.leading_directions = equal_directions
    main()
