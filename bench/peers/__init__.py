"""The other implementations that octsod is measured and checked against."""
