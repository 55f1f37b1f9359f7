"""Whole-slide histopathology: slide -> tiles -> scores -> maps of cancer extent. Research use only."""

__version__ = "0.1.0"
