"""An attacker who knows everything: universal perturbations crafted end to end through a guard."""
