"""Thin clients, one file or folder for each outside system. They translate its errors and try requests again; all
other decisions are made elsewhere."""
