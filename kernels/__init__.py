"""The backends: one package each, with the same functions inside. Imported as octsod.kernels."""
