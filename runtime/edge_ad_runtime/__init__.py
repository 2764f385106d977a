"""The device side of edge-ad: bundles, preprocessing, engines, scoring, cameras, outputs and the line loop."""
