"""Simulation files that come with the package."""
