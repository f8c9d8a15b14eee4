"""Clinics: disease progression learned by small medical practices."""
