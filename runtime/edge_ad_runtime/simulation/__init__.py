"""A modelled belt on virtual time, under the true tracking core (:mod:`edge_ad_runtime.tracking`)."""
