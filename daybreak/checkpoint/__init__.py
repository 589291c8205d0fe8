"""The state of a run in a folder: written whole, verified when read, or rejected by name; the same for every layout of devices.

    RUN_DIR/checkpoints/step-000001000/
        model.safetensors       weights               } of each rank that holds some: model-00002-of-00004.safetensors where there
        optimizer.safetensors   moments, random state } are several
        index.json              of every tensor its shape, its dtype, and which rows of it lie in which file
        state.json              step, tokens, layout, and what else the run needs to go on
        manifest.json           size and sha256 of every file, and of itself

Every rank writes the rows that it holds, and on the way back reads the rows that it needs, wherever they lie: what one device wrote,
four may go on with. A checkpoint is written under a temporary name, flushed to the disk, read back, and published by a rename. What
does not match its manifest is never loaded. No file in it can run code.
"""

from daybreak.checkpoint.folder import CheckpointProblem, delete, found, problems, step_of
from daybreak.checkpoint.restoring import Restored, read_model, restore
from daybreak.checkpoint.saving import Saved, Saver, save

__all__ = ["CheckpointProblem", "Restored", "Saved", "Saver", "delete", "found", "problems", "read_model", "restore", "save", "step_of"]
