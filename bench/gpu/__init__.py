"""`python -m bench gpu`: what the CUDA kernels cost, counted without a GPU or measured on one."""
