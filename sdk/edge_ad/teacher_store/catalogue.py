"""The teachers that others publish and that can be fetched."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """A zip archive of weights at a fixed address with a known content."""

    url: str
    sha256: str
    source: str
    licence: str

    @property
    def file_name(self) -> str:
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Published:
    """A teacher in an archive: ``member`` is its file there, a state dict saved by torch."""

    name: str
    size: str
    archive: Archive
    member: str


ANOMALIB = Archive(
    url="https://github.com/open-edge-platform/anomalib/releases/download/efficientad_pretrained_weights/"
    "efficientad_pretrained_weights.zip",
    sha256="c09aeaa2b33f244b3261a5efdaeae8f8284a949470a4c5a526c61275fe62684a",
    source="anomalib, release efficientad_pretrained_weights",
    licence="not stated by its publisher (anomalib issue 3710)",
)

PUBLISHED = {
    f"anomalib-{size}": Published(
        f"anomalib-{size}", size, ANOMALIB, f"efficientad_pretrained_weights/pretrained_teacher_{word}.pth"
    )
    for size, word in (("s", "small"), ("m", "medium"))
}
