"""The grid laid over tissue, and the tiles in a Zarr store."""
