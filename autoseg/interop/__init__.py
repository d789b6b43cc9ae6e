"""Import and export of other tools' models.

Example::

    from autoseg.interop import export_nnunet, import_nnunet

    run = import_nnunet("nnUNetTrainer__nnUNetPlans__3d_fullres", "RUN")
    export_nnunet(run.path, "MODEL_FOLDER")
"""

from autoseg.interop.nnunet.exporting import export_nnunet
from autoseg.interop.nnunet.importing import import_nnunet

__all__ = ["export_nnunet", "import_nnunet"]
