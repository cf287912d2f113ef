"""Experiments: many trainings under one protocol, continued after any interruption. Needs no torch."""
