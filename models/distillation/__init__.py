"""From a teacher to a student: labels, architectures, training."""
