"""Molecular dynamics with a potential: many replicas at once, watched for failure."""
