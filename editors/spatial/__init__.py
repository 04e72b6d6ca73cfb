"""Editors of fits in three dimensions: what is optimised is the field itself, seen from all sides and in all poses."""
