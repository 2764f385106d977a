"""The sizes of EfficientAD: ``s`` and ``m`` as in the paper, ``n`` (nano) for small devices.

Source of ``s`` and ``m``: arXiv 2303.14535, Tables 6 to 8 (the patch description networks and the
autoencoder). ``n`` is ours; docs/nano.md says what it was shaped by.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_ad_runtime.errors import InputError


@dataclass(frozen=True)
class ConvSpec:
    """One convolution of a patch description network, stride 1.

    ``padding`` counts only in a padded network (``PdnSpec``'s user decides); ``pool`` adds the 2x2
    average pooling after the ReLU.
    """

    channels: int
    kernel: int
    padding: int = 0
    pool: bool = False
    relu: bool = True


@dataclass(frozen=True)
class PdnSpec:
    """A patch description network: its hidden layers, then a head that the user sizes.

    ``body`` are the hidden convolutions; ``head`` are the last ones, whose channel counts of 0 stand
    for the network's output channels (384 for a teacher, twice that for a student, in the paper).
    """

    body: tuple[ConvSpec, ...]
    head: tuple[ConvSpec, ...]

    def layers(self, out_channels: int) -> tuple[ConvSpec, ...]:
        """All convolutions with the head's channels filled in."""
        return self.body + tuple(
            ConvSpec(out_channels, c.kernel, c.padding, c.pool, c.relu) for c in self.head
        )


@dataclass(frozen=True)
class AutoencoderSpec:
    """The autoencoder: five strided convolutions, a latent one, and a decoder of resize and convolve.

    ``decoder_steps`` is how many of the paper's six decoder steps stand before the final resize to the
    map's size. The last ``replicated`` convolutions pad by repeating the border instead of with zeros: zeros
    leave a frame in the output that the student, which does not know where a patch lies, cannot imitate.
    """

    encoder: tuple[int, int, int, int, int]
    latent: int
    decoder: int
    decoder_steps: int = 6
    replicated: int = 0
    dropout: float = 0.2


@dataclass(frozen=True)
class Architecture:
    """One size of EfficientAD.

    ``shared_layers`` is how many leading convolutions the student takes, frozen, from the teacher.
    """

    name: str
    pdn: PdnSpec
    autoencoder: AutoencoderSpec
    teacher_channels: int
    shared_layers: int = 0


PAPER_AUTOENCODER = AutoencoderSpec(encoder=(32, 32, 64, 64, 64), latent=64, decoder=64)

SIZES: dict[str, Architecture] = {
    "n": Architecture(
        name="n",
        pdn=PdnSpec(
            body=(
                ConvSpec(32, 4, padding=3, pool=True),
                ConvSpec(96, 4, padding=3, pool=True),
                ConvSpec(160, 3, padding=1),
            ),
            head=(ConvSpec(0, 4, relu=False),),
        ),
        autoencoder=AutoencoderSpec(
            encoder=(16, 32, 32, 64, 64), latent=64, decoder=32, decoder_steps=4, replicated=2
        ),
        teacher_channels=64,
        shared_layers=2,
    ),
    "s": Architecture(
        name="s",
        pdn=PdnSpec(
            body=(
                ConvSpec(128, 4, padding=3, pool=True),
                ConvSpec(256, 4, padding=3, pool=True),
                ConvSpec(256, 3, padding=1),
            ),
            head=(ConvSpec(0, 4, relu=False),),
        ),
        autoencoder=PAPER_AUTOENCODER,
        teacher_channels=384,
    ),
    "m": Architecture(
        name="m",
        pdn=PdnSpec(
            body=(
                ConvSpec(256, 4, padding=3, pool=True),
                ConvSpec(512, 4, padding=3, pool=True),
                ConvSpec(512, 1),
                ConvSpec(512, 3, padding=1),
            ),
            head=(ConvSpec(0, 4), ConvSpec(0, 1, relu=False)),
        ),
        autoencoder=PAPER_AUTOENCODER,
        teacher_channels=384,
    ),
}


def architecture(size: str) -> Architecture:
    """The architecture of a size.

    Raises:
        InputError: there is no such size.
    """
    try:
        return SIZES[size]
    except KeyError:
        raise InputError(f"size '{size}' is unknown; the sizes are {', '.join(SIZES)}") from None
