"""The guard as torch modules. The only part of `prn_guard` that imports torch."""
