"""Benchmarks: every kernel and the whole of CSNet, verified before timed, against peers in the same run."""
