"""Scripted experiments: clips x representations x editors x metrics, planned, run once, resumed, reported."""
