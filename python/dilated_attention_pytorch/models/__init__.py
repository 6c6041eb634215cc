"""Import paths of a later layout of the packages that this one takes the place of: models.long_net,
models.transformer."""

import importlib
import sys

for _name in ("long_net", "transformer"):
    sys.modules[f"{__name__}.{_name}"] = importlib.import_module(f"..{_name}", __name__)
