"""edge-ad on an ARM64 userland under qemu: what a device installs, and what it computes there."""
