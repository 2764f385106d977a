"""The sizes of EfficientAD: ``s`` and ``m`` as in the paper, ``n`` (nano) for small devices.

Source of ``s`` and ``m``: arXiv 2303.14535, Tables 6 to 8 (the patch description networks and the
autoencoder). ``n`` is ours; docs/nano.md says what it was shaped by.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from edge_ad_converters.compress.narrow import narrowed
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

    def layers(self, out_channels: int, hidden_channels: int | None = None) -> tuple[ConvSpec, ...]:
        """All convolutions with the head's channels filled in.

        ``hidden_channels`` are those of the head's convolutions before the last one (size ``m`` has one);
        None is ``out_channels``, as in the paper.
        """
        hidden = out_channels if hidden_channels is None else hidden_channels
        return (
            *self.body,
            *(replace(c, channels=hidden) for c in self.head[:-1]),
            replace(self.head[-1], channels=out_channels),
        )

    @property
    def hidden_layers(self) -> int:
        """How many convolutions stand before the last one."""
        return len(self.body) + len(self.head) - 1


def check_width(share: float) -> None:
    """Refuse a share of the hidden channels that does not lie above 0 and up to 1.

    Raises:
        InputError: it does not.
    """
    if not 0 < share <= 1:
        raise InputError(
            f"a width of {share:g}: the share of the hidden channels lies above 0 and at most at 1"
        )


def narrow_pdn(spec: PdnSpec, share: float) -> PdnSpec:
    """A patch description network of which each layer of the body keeps a share of its channels.

    Raises:
        InputError: see :func:`check_width`.
    """
    check_width(share)
    widths = narrowed([c.channels for c in spec.body], share)
    return replace(spec, body=tuple(replace(c, channels=w) for c, w in zip(spec.body, widths, strict=True)))


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
    ``projected_from`` is how many channels the teacher had before it was projected on ``teacher_channels``
    directions; None: it was not. The projection narrows the last convolutions alone.
    """

    name: str
    pdn: PdnSpec
    autoencoder: AutoencoderSpec
    teacher_channels: int
    shared_layers: int = 0
    projected_from: int | None = None


AutoencoderKind: TypeAlias = Literal["paper", "light"]
AUTOENCODERS: tuple[AutoencoderKind, ...] = ("paper", "light")
# The decoder's steps to 63 and 127 cells (for 256 px) are left out: half of the paper's autoencoder goes into
# them, and the map has 56. The border is repeated where zeros would leave a frame in the map.
LIGHT_DECODER_STEPS, LIGHT_REPLICATED = 4, 2
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
            encoder=(16, 32, 32, 64, 64),
            latent=64,
            decoder=32,
            decoder_steps=LIGHT_DECODER_STEPS,
            replicated=LIGHT_REPLICATED,
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


def autoencoder_spec(size: str, kind: AutoencoderKind) -> AutoencoderSpec:
    """A size's autoencoder of a kind: ``paper``, or ``light``, with fewer decoder steps and a repeated border.

    The light one is as wide as the size's own: size ``n`` has a sixth of the paper's teacher channels to
    predict, and is narrow; ``s`` and ``m`` keep the paper's widths.

    Raises:
        InputError: there is no such size or kind.
    """
    own = architecture(size).autoencoder
    if kind == "paper":
        return PAPER_AUTOENCODER
    if kind == "light":
        return replace(own, decoder_steps=LIGHT_DECODER_STEPS, replicated=LIGHT_REPLICATED)
    raise InputError(f"autoencoder '{kind}' is unknown; use {', '.join(AUTOENCODERS)}")


def check_shared_layers(size: str, count: int) -> None:
    """Refuse a number of shared convolutions that the size does not have.

    Raises:
        InputError: there is no such size, or it has fewer convolutions before the last one.
    """
    most = architecture(size).pdn.hidden_layers
    if not 0 <= count <= most:
        raise InputError(
            f"{count} shared layers: size '{size}' can share 0 to {most}, the convolutions before its last one"
        )


def check_directions(directions: float, channels: int | None = None) -> None:
    """Refuse what is neither a number of directions (an ``int``) nor a share of the energy (a ``float``).

    Raises:
        InputError: it is out of range, or there are more directions than the teacher has ``channels``.
    """
    if isinstance(directions, bool) or not (
        directions >= 1 if isinstance(directions, int) else 0 < directions < 1
    ):
        raise InputError(
            f"the directions {directions} must be a whole number of at least 1, or a share of the energy "
            "between 0 and 1"
        )
    if channels is not None and directions > channels:
        raise InputError(f"{directions} directions: the teacher has {channels} channels")
