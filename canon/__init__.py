"""canon: edit video through a canonical representation."""
