"""Published datasets, read as their publishers distribute them, and synthetic sound scenes."""
