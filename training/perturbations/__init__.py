"""Perturbation banks, synthetic perturbations, and perturbations made elsewhere."""
