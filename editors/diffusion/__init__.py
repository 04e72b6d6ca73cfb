"""What the text-driven editors share: models."""
