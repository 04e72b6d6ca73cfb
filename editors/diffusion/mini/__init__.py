"""canon-mini: a small text-to-image model of colours, patterns and materials, trained on pictures that are drawn."""
