"""Backbones of our own, in a flat functional form that quantizes as a whole."""
