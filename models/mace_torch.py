"""What we use of mace-torch and e3nn. To import it takes seconds: for who builds or changes networks."""

import io
import warnings
from contextlib import redirect_stdout

# What they print and warn of while they are imported (optional accelerators) helps nobody here.
with redirect_stdout(io.StringIO()), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mace  # noqa: F401  (before e3nn: it sets how torch unpickles e3nn's constants)
    from e3nn import o3
    from e3nn.util import jit
    from mace import modules
    from mace.modules import lora
    from mace.tools import AtomicNumberTable
    from mace.tools.finetuning_utils import load_foundations_elements
    from mace.tools.scripts_utils import extract_config_mace_model

BLOCKS = modules.interaction_classes | modules.readout_classes

__all__ = [
    "BLOCKS",
    "AtomicNumberTable",
    "extract_config_mace_model",
    "jit",
    "load_foundations_elements",
    "lora",
    "modules",
    "o3",
]
