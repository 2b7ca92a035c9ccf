"""The analysis loop behind watch, gates and verification, and the recheck of what was promoted."""
