"""The browser viewer: looking at fits, painting on canvases and frames, running editors."""
