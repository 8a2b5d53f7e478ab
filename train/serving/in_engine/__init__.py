"""What runs inside an engine's process: this folder is on its path, so it holds modules with names of our own alone."""
