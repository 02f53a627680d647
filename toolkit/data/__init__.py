"""Labelled X-rays: index, audit, patient-level split, loading."""
