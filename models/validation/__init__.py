"""Judging a potential: errors, structure of what it simulates, stability, conservation of energy."""
