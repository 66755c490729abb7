"""What the machine can do at most, and how near kernels come."""
