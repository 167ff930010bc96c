"""Files of inference formats, written directly from the layers of a plain module."""
