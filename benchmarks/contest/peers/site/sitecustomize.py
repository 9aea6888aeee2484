"""On the vLLM peer's PYTHONPATH: makes a torchvision that was built for CUDA importable beside a torch for the CPU.

Such a torchvision cannot load its operators, and then fails on import because it describes operators that are not
there. vLLM needs the import and none of the operators. Declaring them is enough, in each process that vLLM starts.
"""

import importlib.abc
import sys
from importlib.machinery import ModuleSpec

OPERATORS = (
    "nms",
    "qnms",
    "roi_align",
    "_roi_align_backward",
    "qroi_align",
    "ps_roi_align",
    "_ps_roi_align_backward",
    "roi_pool",
    "_roi_pool_backward",
    "ps_roi_pool",
    "_ps_roi_pool_backward",
    "deform_conv2d",
    "_deform_conv2d_backward",
)


class DeclareOperators(importlib.abc.MetaPathFinder):
    """Finds nothing; declares what is missing just before torchvision describes it."""

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        if name == "torchvision._meta_registrations":
            import torch

            self.library = torch.library.Library("torchvision", "FRAGMENT")
            for operator in OPERATORS:
                if not hasattr(torch.ops.torchvision, operator):
                    self.library.define(f"{operator}(Tensor x) -> Tensor")
        return None


sys.meta_path.insert(0, DeclareOperators())
