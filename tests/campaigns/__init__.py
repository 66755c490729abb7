"""Campaigns: long searches for inputs, moments and durations that the library cannot bear. See README.md."""
