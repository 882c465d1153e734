"""Universal attacks: one algorithm per file, one shared engine, one registry."""
