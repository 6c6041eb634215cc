"""Import paths of a later layout of the packages that this one takes the place of: base.dilated_attention and so on."""

import importlib
import sys

for _name in (
    "dilated_attention",
    "multihead_dilated_attention",
    "improved_dilated_attention",
    "improved_multihead_dilated_attention",
    "distributed_dilated_attention",
):
    sys.modules[f"{__name__}.{_name}"] = importlib.import_module(f"..{_name}", __name__)
