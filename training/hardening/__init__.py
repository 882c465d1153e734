"""Hardening the classifier itself by fine-tuning: one method per file, one trainer for all."""
