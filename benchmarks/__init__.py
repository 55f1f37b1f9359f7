"""Speed side by side: `python -m benchmarks [--quick]` runs all; each file runs alone too."""
