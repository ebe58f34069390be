"""Clusters of real processes under real faults, and whether the histories they leave keep the promises."""
