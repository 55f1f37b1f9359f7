"""One slide: its pixels, its scale, its tissue."""
