"""Editors that move what is seen: a layer's canvas is warped, and every frame with it."""
