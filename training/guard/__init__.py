"""Fitting the guard: rectifier, detector, and the folder that holds them."""
