"""What runs have recorded: their histories, the paper's figures, sweeps."""
