"""Everything that knows what a potential is.

Units throughout: eV, Å, eV/Å, eV/Å³, K, fs. Stress has ASE's sign (tensile positive) and, as a
vector, Voigt order. Energies are totals unless a name ends in `_per_atom`. Arrays of N atoms are
(N, 3) for positions (Å) and forces (eV/Å).
"""
