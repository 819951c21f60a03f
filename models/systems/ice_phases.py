"""The thirteen phases of ice of DMC-ICE13 (Della Pia et al., J. Chem. Phys. 157, 134701), as published."""

from dataclasses import dataclass

Coordinates = tuple[tuple[float, float, float], ...]
Matrix = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A phase of ice as diffraction describes it.

    Attributes:
        spacegroup: number in the International Tables, and `setting` of it in ASE.
        cell: lengths in Å and angles in degrees.
        oxygens: fractional coordinates of the inequivalent ones.
        hydrogens: the same; empty where they are disordered.
        source: where the numbers are from.
        supercell: of the crystallographic cell, so that no molecule is bonded to its own image.
        intertwined: whether there are two networks, one for each inequivalent oxygen.
    """

    spacegroup: int
    setting: int = 1
    cell: tuple[float, float, float, float, float, float]
    oxygens: Coordinates
    hydrogens: Coordinates = ()
    source: str
    supercell: Matrix = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    intertwined: bool = False


PHASES = {
    "Ih": Phase(
        spacegroup=194,
        cell=(4.497, 4.497, 7.322, 90, 90, 120),
        oxygens=((1 / 3, 2 / 3, 1 / 16),),
        source="Röttger et al., Acta Cryst. B 50, 644 (1994)",
        supercell=((2, 0, 0), (1, 2, 0), (0, 0, 1)),
    ),
    "II": Phase(
        spacegroup=148,
        setting=2,
        cell=(7.78, 7.78, 7.78, 113.1, 113.1, 113.1),
        oxygens=((0.2716, 0.0259, -0.1471), (0.4798, 0.7571, 0.3389)),
        hydrogens=(
            (0.7284, 0.4038, 0.4034),
            (0.1491, 0.0412, -0.2023),
            (0.7420, 0.1978, 0.3708),
            (0.4232, 0.1954, -0.0164),
        ),
        source="Kamb, Acta Cryst. 17, 1437 (1964); Kamb et al., J. Chem. Phys. 55, 1934 (1971)",
    ),
    "III": Phase(
        spacegroup=92,
        cell=(6.666, 6.666, 6.936, 90, 90, 90),
        oxygens=((0.1092, 0.3007, 0.2911), (0.392, 0.392, 0.0)),
        source="Londono et al., J. Chem. Phys. 98, 4878 (1993)",
    ),
    "IV": Phase(
        spacegroup=167,
        setting=2,
        cell=(7.60, 7.60, 7.60, 70.1, 70.1, 70.1),
        oxygens=((0.0855, 0.0855, 0.0855), (0.2604, 0.3891, 0.8804)),
        source="Engelhardt and Kamb, J. Chem. Phys. 75, 5887 (1981)",
        supercell=((0, 1, 1), (1, 0, 1), (1, 1, 0)),
    ),
    "VI": Phase(
        spacegroup=137,
        setting=2,
        cell=(6.181, 6.181, 5.698, 90, 90, 90),
        oxygens=((0.75, 0.25, 0.75), (0.25, 0.471, 0.867)),
        source="Kuhs et al., J. Chem. Phys. 81, 3612 (1984)",
        supercell=((2, 0, 0), (0, 1, 0), (0, 0, 1)),
    ),
    "VII": Phase(
        spacegroup=227,
        cell=(6.688, 6.688, 6.688, 90, 90, 90),
        oxygens=((0.0, 0.0, 0.0), (0.5, 0.5, 0.5)),
        source="Kuhs et al., J. Chem. Phys. 81, 3612 (1984)",
        intertwined=True,
    ),
    "VIII": Phase(
        spacegroup=141,
        setting=2,
        cell=(4.656, 4.656, 6.775, 90, 90, 90),
        oxygens=((0.0, 0.25, 0.1071),),
        hydrogens=((0.0, 0.4157, 0.1935),),
        source="Kuhs et al., J. Chem. Phys. 81, 3612 (1984)",
        supercell=((1, 1, 0), (-1, 1, 0), (0, 0, 1)),
    ),
    "IX": Phase(
        spacegroup=92,
        cell=(6.692, 6.692, 6.715, 90, 90, 90),
        oxygens=((0.108, 0.298, 0.290), (0.395, 0.395, 0.0)),
        hydrogens=((0.992, 0.331, 0.201), (0.107, 0.157, 0.276), (0.295, 0.361, 0.102)),
        source="La Placa et al., J. Chem. Phys. 58, 567 (1973); Londono et al., ibid. 98, 4878 (1993)",
    ),
    "XI": Phase(
        spacegroup=36,
        cell=(4.465, 7.859, 7.292, 90, 90, 90),
        oxygens=((0.0, 0.6649, 0.0631), (0.5, 0.8255, -0.0631)),
        hydrogens=((0.0, 0.6636, 0.1963), (0.0, 0.5363, 0.0183), (0.6766, 0.7748, -0.0183)),
        source="Line and Whitworth, J. Chem. Phys. 104, 10008 (1996)",
        supercell=((2, 0, 0), (0, 1, 0), (0, 0, 1)),
    ),
    # The published setting is P2₁/a; here its axes are c, −b, a.
    "XIII": Phase(
        spacegroup=14,
        cell=(10.2970, 7.4724, 9.2417, 90, 109.6873, 90),
        oxygens=(
            (0.2517, -0.5629, 0.2541),
            (0.4089, -0.7992, 0.4771),
            (0.0941, -0.8082, 0.0503),
            (0.4992, -0.4045, 0.2613),
            (0.0034, -0.4029, 0.2113),
            (0.2336, -0.1103, 0.4147),
            (0.2643, -0.1142, 0.1245),
        ),
        hydrogens=(
            (0.3008, -0.6427, 0.3444),
            (0.3299, -0.4942, 0.2458),
            (0.1563, -0.7187, 0.1074),
            (0.3558, -0.9075, 0.4820),
            (0.4437, -0.7499, 0.5763),
            (0.0478, -0.7508, 0.9486),
            (0.0989, -0.4543, 0.2372),
            (0.5777, -0.4904, 0.3043),
            (0.5137, -0.3555, 0.1708),
            (0.9904, -0.3737, 0.3072),
            (0.1989, -0.0194, 0.0781),
            (0.2554, -0.1374, 0.3250),
            (0.1467, -0.0496, 0.3823),
            (0.2548, -0.2082, 0.0509),
        ),
        source="Salzmann et al., Science 311, 1758 (2006)",
    ),
    # Of the sites that are partly occupied, those that hold most of the deuterium.
    "XIV": Phase(
        spacegroup=19,
        cell=(8.3499, 8.1391, 4.0825, 90, 90, 90),
        oxygens=((0.0059, 0.2568, 0.1304), (0.6308, -0.0078, 0.2485), (0.2525, 0.8858, 0.0063)),
        hydrogens=(
            (0.0920, 0.2056, 0.2671),
            (0.5275, 0.8410, 0.4684),
            (0.7895, 0.9679, 0.8954),
            (0.7340, 0.4630, 0.3225),
            (0.4111, 0.5790, 0.3625),
            (0.8472, 0.3248, 0.4010),
        ),
        source="Salzmann et al., Science 311, 1758 (2006)",
        supercell=((1, 0, 0), (0, 1, 0), (0, 0, 2)),
    ),
    # The oxygens of VI in the cell of XV, the hydrogens on the bonds between them. The ice rules allow 45
    # orders there; in three of them an inversion exchanges the two networks, so that no dipole is left, as
    # diffraction found it. DMC-ICE13 computed the one of the three whose networks have dipoles along c too.
    "XV": Phase(
        spacegroup=2,
        cell=(6.2323, 6.2438, 5.7903, 90.06, 89.99, 89.92),
        oxygens=(
            (0.750, 0.250, 0.750),
            (0.029, 0.250, 0.367),
            (0.471, 0.250, 0.367),
            (0.750, 0.971, 0.133),
            (0.750, 0.529, 0.133),
        ),
        hydrogens=(
            (0.750, 0.350, 0.888),
            (0.750, 0.150, 0.888),
            (0.188, 0.250, 0.367),
            (0.929, 0.250, 0.505),
            (0.571, 0.350, 0.283),
            (0.571, 0.250, 0.505),
            (0.850, 0.071, 0.217),
            (0.650, 0.071, 0.217),
            (0.750, 0.688, 0.133),
            (0.850, 0.429, 0.217),
        ),
        source="Salzmann et al., Phys. Rev. Lett. 103, 105701 (2009); Kuhs et al. as for VI",
    ),
    "XVII": Phase(
        spacegroup=178,
        cell=(6.33, 6.33, 6.06, 90, 90, 120),
        oxygens=((0.235, 0.470, 0.25),),
        source="del Rosso et al., Nat. Commun. 7, 13394 (2016)",
        supercell=((2, 0, 0), (1, 2, 0), (0, 0, 1)),
    ),
}
"""By name."""
