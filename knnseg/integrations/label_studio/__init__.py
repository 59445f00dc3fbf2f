"""Label Studio: predictions to import, and an ML backend that predicts and learns from annotations.

Nothing of Label Studio is needed for either.
"""

from knnseg.integrations.label_studio.predictions import (
    Control,
    LabelConfig,
    ShapeKind,
    local_file,
    prediction,
    save_tasks,
    task,
)

__all__ = ["Control", "LabelConfig", "ShapeKind", "local_file", "prediction", "save_tasks", "task"]
