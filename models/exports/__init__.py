"""Potentials as files that other programs run. Empty, so that LAMMPS can import `mliap` with torch alone."""
