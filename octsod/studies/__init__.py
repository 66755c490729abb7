"""What runs tell: their histories, the figures of the paper, sweeps."""
