"""What leaves for other programs: ST-maps with everything that a compositor needs, and point tracks."""
