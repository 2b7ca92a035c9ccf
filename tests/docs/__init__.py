"""The documents: what generates their reference pages, and what checks their links, words and sentences."""
