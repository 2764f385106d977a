"""The processors that qemu plays, and what Linux says of them in ``/proc/cpuinfo``.

qemu 7.2 passes the host's ``/proc/cpuinfo`` through. Libraries that read it there for the kind of core
(the cpuinfo in onnxruntime does) meet an x86 description and crash, so the root gets one that fits.
"""

from __future__ import annotations

from dataclasses import dataclass

_ARMV8_0 = "fp asimd evtstrm crc32 cpuid"
_ARMV8_2 = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
)


@dataclass(frozen=True)
class Processor:
    """``qemu`` is qemu's name; ``part`` and ``variant`` are fields of MIDR_EL1 (implementer 0x41, Arm)."""

    qemu: str
    part: str
    variant: str
    features: str
    found_in: str

    def cpuinfo(self, cores: int) -> str:
        """The text of ``/proc/cpuinfo`` with so many cores."""
        return "".join(
            f"processor\t: {core}\nBogoMIPS\t: 108.00\nFeatures\t: {self.features}\n"
            f"CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: {self.variant}\n"
            f"CPU part\t: {self.part}\nCPU revision\t: 1\n\n"
            for core in range(cores)
        )


PROCESSORS = {
    p.qemu: p
    for p in (
        # 8-bit dot products (asimddp) are what divides the two: INT8 kernels differ with them.
        Processor("cortex-a76", "0xd0b", "0x4", _ARMV8_2, "Raspberry Pi 5; Jetson Orin's A78AE is alike"),
        Processor("cortex-a72", "0xd08", "0x0", _ARMV8_0, "Raspberry Pi 4"),
    )
}
