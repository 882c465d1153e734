"""Metrics, protocols, adaptive attacks and reports."""
