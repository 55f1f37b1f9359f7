"""Labelled images and settings -> a calibrated checkpoint, in a folder from which the training goes on."""
