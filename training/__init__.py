"""The workbench: attacks, perturbation banks, guards, evaluation. Run from a checkout."""
