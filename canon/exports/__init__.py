"""What leaves for other programs: ST-maps with all that a compositor needs, tracks, labels, stabilised frames."""
