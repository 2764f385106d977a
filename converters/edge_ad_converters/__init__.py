"""From trained nets to a bundle that a device runs: fusing, quantizing, proving."""
