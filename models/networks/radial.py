"""Functions of a distance: a smooth radial basis, and the repulsion of nuclei at short range."""

import torch
from ase import units
from ase.data import covalent_radii

# The universal screening function of Ziegler, Biersack and Littmark (The Stopping and Range of Ions in
# Matter, 1985): amplitudes and decays in units of the screening length.
ZBL_AMPLITUDES = (0.18175, 0.50986, 0.28022, 0.02817)
ZBL_DECAYS = (3.19980, 0.94229, 0.40290, 0.20162)
_COULOMB = units.Hartree * units.Bohr  # eV Å between two elementary charges


class RadialBasis(torch.nn.Module):
    """Gaussians in a row times (1 - (r/r_c)²)³, which goes to zero at the cutoff with two derivatives."""

    centres: torch.Tensor

    def __init__(self, cutoff: float, size: int) -> None:
        super().__init__()
        spacing = 1.0 / size
        self.inverse_cutoff = 1.0 / cutoff
        self.sharpness = 0.5 / spacing**2
        self.register_buffer("centres", spacing * (torch.arange(size) + 0.5), persistent=False)

    def forward(self, distances: torch.Tensor) -> torch.Tensor:
        """Values (E, size) at distances (E,), Å."""
        x = distances * self.inverse_cutoff
        inside = (1.0 - x * x).clamp(min=0.0)
        from_centre = x[:, None] - self.centres
        return (-self.sharpness * from_centre * from_centre).exp() * (inside * inside * inside)[:, None]


class Repulsion(torch.nn.Module):
    """The screened repulsion of two nuclei, faded out at the sum of their covalent radii."""

    table: torch.Tensor
    amplitudes: torch.Tensor
    decays: torch.Tensor

    def __init__(self, atomic_numbers: list[int]) -> None:
        super().__init__()
        z = torch.tensor(atomic_numbers, dtype=torch.float64)
        radii = torch.tensor(covalent_radii[atomic_numbers])
        table = torch.stack(
            [
                0.5 * _COULOMB * z[:, None] * z,  # half of it for each of the two
                (z[:, None] ** 0.23 + z**0.23) / (0.8854 * units.Bohr),  # 1/screening length
                (radii[:, None] + radii).reciprocal(),
            ],
            dim=-1,
        )
        dtype = torch.get_default_dtype()
        self.n_elements = len(atomic_numbers)
        self.register_buffer("table", table.view(-1, 3).to(dtype), persistent=False)
        self.register_buffer("amplitudes", torch.tensor(ZBL_AMPLITUDES), persistent=False)
        self.register_buffer("decays", torch.tensor(ZBL_DECAYS), persistent=False)

    def forward(self, distances: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Energies (E,), eV, of each `first` atom's half at distances (E,), Å, from species (E,)."""
        return self.with_slopes(distances, first, second)[0]

    def with_slopes(
        self, distances: torch.Tensor, first: torch.Tensor, second: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies, as `forward` gives them, and their derivatives, eV/Å; of distances of any shape."""
        r = distances.reshape(-1)
        pairs = (first * self.n_elements + second).view(-1)
        strength, inverse_length, inverse_reach = self.table.index_select(0, pairs).T.contiguous().unbind(0)
        x = r * inverse_reach
        inside = (1.0 - x * x).clamp(min=0.0)
        faded = strength * inside * inside * inside / r  # to be multiplied by `inside` once more
        decays = self.decays[:, None] * inverse_length
        # Not to less than float32 can hold well: arithmetic with such numbers is slow.
        terms = (-r * decays).clamp(min=-80.0).exp() * self.amplitudes[:, None]
        screening, slope = terms.sum(dim=0), (terms * decays).sum(dim=0)
        values = faded * inside * screening
        slopes = -faded * (inside * (screening / r + slope) + 8.0 * x * inverse_reach * screening)
        return values.view_as(distances), slopes.view_as(distances)
