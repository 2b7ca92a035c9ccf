"""Thin clients, one file or folder for each outside system. They translate its errors, and decide nothing."""
